"""What prompts begin with alike is read once, and each prompt's text is the one that it gets alone."""

import pytest
import torch
from conftest import tiny_model

from claw.engine.greedy import GreedyGenerator, shared_beginning


def test_the_shared_beginning_leaves_each_prompt_its_last_token():
    assert shared_beginning([[1, 2, 3], [1, 2, 4, 5], [1, 2]]) == 1
    assert shared_beginning([[1, 2], [1, 2]]) == 1 and shared_beginning([[5, 2, 9], [1, 2, 9]]) == 0
    assert shared_beginning([[1, 2, 3]]) == 0


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3"])
@pytest.mark.parametrize("ends", [(1, 9, 4, 30), (3, 3, 3)], ids=["ragged", "even"])
def test_prompts_that_begin_alike_are_continued_as_alone(family, ends):
    model = tiny_model(family)
    prompts = [[*range(20, 60), *range(3 + n, 3 + n + length)] for n, length in enumerate(ends)]
    generator = GreedyGenerator(model)
    never = lambda number, ids: False
    together = generator.write(prompts, 20, [], never)
    assert together == [generator.write([prompt], 20, [], never)[0] for prompt in prompts]
    stock = model.generate(torch.tensor([prompts[1]]), max_new_tokens=20, do_sample=False, eos_token_id=None)
    assert stock[0, len(prompts[1]) :].tolist() == together[1]


def test_weights_that_change_between_calls_are_the_ones_used():
    model = tiny_model("llama")
    generator = GreedyGenerator(model)
    before = generator.write([[5, 6, 7]], 12, [], lambda number, ids: False)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.neg_()
    after = generator.write([[5, 6, 7]], 12, [], lambda number, ids: False)
    fresh = GreedyGenerator(model).write([[5, 6, 7]], 12, [], lambda number, ids: False)
    assert after == fresh != before
