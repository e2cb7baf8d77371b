"""Every family's weights have the same names and come back as they were stored, whole or with fewer blocks."""

import pytest
import torch
from trained import untrained

from claw.models.anatomy import anatomy
from claw.models.common_names import common_state, stock_state
from claw.models.families import GATED
from claw.models.linears import set_linear

FAMILIES = "llama phi3 glm nemotron starcoder2 phi gpt_neox gpt2 opt olmo2 cohere".split()


@pytest.fixture(params=FAMILIES)
def parts(request):
    return anatomy(untrained(request.param))


def test_weights_come_back_as_they_were_stored(parts):
    stored = {name: tensor for name, tensor in parts.model.state_dict().items() if not (parts.tied and "lm_head" in name)}
    again = stock_state(parts, common_state(parts), range(parts.depth))
    assert again.keys() == stored.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in stored.items())


def test_every_role_has_its_common_name(parts):
    state = common_state(parts)
    for layer in parts.layers:
        for letter, linear in layer.linears.items():
            name = f"model.layers.{layer.index}.{GATED[letter]}"
            assert torch.equal(state[f"{name}.weight"], linear.weight)
            assert (linear.bias is None) == (f"{name}.bias" not in state)


def test_blocks_are_renumbered(parts):
    one = stock_state(parts, common_state(parts), [2])
    whole = parts.model.state_dict()
    start = f"{parts.names.backbone}.{parts.names.layers}"
    inner = [name for name in one if name.startswith(f"{start}.")]
    assert inner and all(torch.equal(one[name], whole[name.replace(f"{start}.0.", f"{start}.2.")]) for name in inner)


def test_a_role_computes_what_its_rows_do(parts):
    """What a part gives is what it would give alone, and writing one role leaves the others."""
    layer = parts.layers[1]
    x = torch.randn(5, parts.hidden, generator=torch.Generator().manual_seed(0))
    for letter in set(layer.linears) - {"o", "d"}:
        linear = layer.linear(letter)
        expected = x @ linear.weight.T + (0 if linear.bias is None else linear.bias)
        torch.testing.assert_close(linear(x), expected)
    before = {letter: linear.weight.clone() for letter, linear in layer.linears.items()}
    shared = layer.linear("u").weight.detach()  # a view of what the model holds
    set_linear(layer.linear("u"), 2 * before["u"])
    assert torch.equal(shared, before["u"])  # memory that others may share is not written into
    for letter, weight in before.items():
        assert torch.equal(layer.linear(letter).weight, 2 * weight if letter == "u" else weight)
