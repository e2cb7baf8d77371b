"""Every public function leaves the caller's models in their modes and all random states as they were."""

import copy
import random

import numpy as np
import pytest
import torch
from conftest import tiny_model
from synthetic import study_table
from torch import nn

import claw
from claw.evaluate import timing
from claw.evaluate.lm_eval_model import ClawLM
from claw.models.anatomy import anatomy
from claw.models.undisturbed import leaves_as_before, undisturbed
from claw.prune import latency, prunenet
from claw.recovery.run import recover_milestones
from claw.specs.experiment import Recovery, Speed
from claw.specs.methods import method_names


def modes(model) -> list[bool]:
    return [module.training for module in model.modules()]


def states() -> str:
    numpy = np.random.get_state()
    return repr((random.getstate(), numpy[1].tolist(), numpy[2:], torch.get_rng_state().tolist()))


@pytest.fixture
def lent():
    """A model of which some parts are in training mode and others are not, with dropout."""
    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.config.attention_dropout = 0.5
    model.train()
    model.model.layers[1].eval()
    return model


@pytest.fixture
def other():
    """Another model, all of it in training mode."""
    return tiny_model("llama", seed=1).train()


@pytest.fixture(autouse=True)
def watched(lent, other, folder_model, own_cache):
    """Draw all three random states to somewhere of their own, and compare them and the modes afterwards."""
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)
    before, of_model = states(), modes(lent)
    assert len(set(of_model)) == 2
    yield
    assert states() == before
    assert modes(lent) == of_model and all(modes(other))


@pytest.fixture
def training(watched, tokenizer, train_text):
    return claw.blocks(tokenizer, train_text, length=32, count=48, seed=1)


@pytest.fixture
def heldout(watched, tokenizer, heldout_text):
    return claw.blocks(tokenizer, heldout_text, length=32, count=8, purpose="heldout")


def test_load(folder_model):
    assert not claw.load(folder_model)[0].training


def test_describe(lent):
    claw.describe(lent)


def test_cross_entropy_in_evaluation_mode(lent, heldout):
    assert claw.cross_entropy(lent, heldout).mean == claw.cross_entropy(copy.deepcopy(lent).eval(), heldout).mean


@pytest.mark.parametrize("method", method_names())
def test_calibrate_and_compress(lent, training, method):
    statistics = claw.calibrate(lent, training, gradients=True)
    assert statistics.held is None and statistics.model == claw.calibrate(copy.deepcopy(lent).eval(), training).model
    small, _ = claw.compress(lent, method, 0.34, statistics=statistics, seed=3)
    assert not small.training


def test_milliseconds(lent, training):
    latency.measured_latency(anatomy(lent), claw.calibrate(lent, training))


@pytest.mark.parametrize("recipe", ["lora", "full", "distill"])
def test_recover(lent, other, training, heldout, recipe):
    teacher = other if recipe == "distill" else None
    small, _ = claw.recover(lent, training, tokens=64, recipe=recipe, heldout=heldout, teacher=teacher, batch=1)
    assert not small.training


def test_milestones_between_their_steps(lent, training):
    before = states()
    for _ in recover_milestones(lent, training, [Recovery(recipe="full", tokens=t, length=32, batch=1) for t in (64, 128)]):
        assert states() == before


def test_measure_speed(lent, other):
    speed = {"prompt": 8, "generate": 2, "batches": [1], "rounds": 3}
    claw.measure_speed(lent, against=other, **speed)
    timing.timings(lent, other, Speed(**speed))


def test_score_tasks(lent, tokenizer):
    for cache in (False, True):
        claw.score_tasks(lent, tokenizer, ["piqa"], limit=2, num_fewshot=1, cache=cache)


def test_lm_eval(lent, tokenizer):
    from lm_eval.api.instance import Instance

    language_model = ClawLM(lent, tokenizer, cache=False)
    ask = lambda kind, *args: [Instance(request_type=kind, doc={}, arguments=args, idx=0)]
    first = language_model.loglikelihood(ask("loglikelihood", "the of", " and"))
    assert first == ClawLM(copy.deepcopy(lent).eval(), tokenizer, cache=False).loglikelihood(
        ask("loglikelihood", "the of", " and")
    )
    language_model.loglikelihood_rolling(ask("loglikelihood_rolling", "the of and"))
    language_model.generate_until(
        ask("generate_until", "the of", {"until": ["x"], "max_gen_toks": 2, "do_sample": True, "temperature": 0.7})
    )


def test_save(lent, tokenizer, tmp_path):
    claw.save(lent, tokenizer, tmp_path / "saved")


def test_prunenet_policies(lent):
    prunenet.policy_for(anatomy(lent), 0.3, 0)


def test_laws(tmp_path):
    claw.laws.fit(study_table(("model-s",), ("random", "claw"), recovery=False, tasks=False, speed=False), draws=100)


def test_the_decorator_finds_models_wherever_they_are_given():
    model = nn.Sequential(nn.Dropout(0.5), nn.Identity()).train()

    @leaves_as_before
    def seen(first, *, other=None):
        random.random(), np.random.rand(), torch.rand(1)
        return [one.training for one in (first, other) if one is not None]

    @leaves_as_before
    def steps(model):
        for _ in range(2):
            yield model.training, torch.rand(1).item()

    assert seen(model, other=model) == [False, False] and model.training
    assert [training for training, _ in steps(model)] == [False, False] and model.training


def test_an_error_leaves_all_as_before(lent):
    with pytest.raises(KeyError), undisturbed(lent):
        torch.rand(3)
        raise KeyError
