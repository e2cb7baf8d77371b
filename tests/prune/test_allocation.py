"""Budgets: met, spent where it is cheap, refused where nothing can meet them."""

import math

import pytest
from conftest import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as some

import claw
from claw.errors import InputError
from claw.models.shape import Shape
from claw.prune import allocation, targets
from claw.prune.allocation import Costs
from claw.prune.statistics import calibrate
from claw.specs import methods
from claw.texts import token_blocks

SMOLLM2 = Shape(vocabulary=49152, hidden=576, depth=30, width=1536, heads=9, groups=3, head_size=64, tied=True)
QWEN = Shape(vocabulary=151936, hidden=1536, depth=28, width=8960, heads=12, groups=2, head_size=128, tied=True, biases="qkv")
EVEN = Costs(dict.fromkeys(methods.AXES, ((0.5, 1.0), (0.9, 4.0))))
NARROW = Costs(EVEN.points | {"ffn": ((0.5, 0.5), (0.9, 2.0))})  # neurons are cheap


@settings(deadline=None, max_examples=40)
@given(some.sampled_from([SMOLLM2, QWEN]), some.floats(0.02, 0.9), some.sampled_from(["params", "nonembedding", "flops"]))
def test_a_budget_is_met(dense, ratio, budget):
    small = allocation.cheapest_shape(dense, EVEN, ratio, budget)
    assert abs(targets.removed(dense, small, budget) - ratio) <= 0.01
    assert small.heads % small.groups == 0 and small.width % 32 == 0 and small.hidden % 32 == 0


@pytest.mark.parametrize(("axis", "name"), [("ffn", "width"), ("layers", "depth"), ("hidden", "hidden")])
def test_the_cheap_axis_is_cut(axis, name):
    dear = {other: ((0.05, 50.0), (0.9, 100.0)) for other in methods.AXES if other != axis}
    small = allocation.cheapest_shape(SMOLLM2, Costs(dear | {axis: ((0.5, 0.1), (0.9, 0.2))}), 0.2, "params")
    assert getattr(small, name) < getattr(SMOLLM2, name)
    others = [other for other in methods.AXES.values() if other != name]
    assert all(getattr(small, other) >= 0.85 * getattr(SMOLLM2, other) for other in others)


def test_costs_go_through_the_measured_points_and_never_fall():
    costs = Costs({"ffn": ((0.2, 0.5), (0.4, 0.4), (0.8, 2.0))})
    assert costs.excess("ffn", 0.2) == pytest.approx(0.5) and costs.excess("ffn", 0.8) == pytest.approx(2.0)
    values = [costs.excess("ffn", share / 50) for share in range(50)]
    assert values == sorted(values)
    assert costs.excess("layers", 0.1) == float("inf")


def test_joint_cuts_cost_more_than_each_and_less_than_their_sum():
    one, other = SMOLLM2.with_(width=768), SMOLLM2.with_(hidden=288)
    alone, also, both = (EVEN.of(SMOLLM2, shape) for shape in (one, other, one.with_(hidden=288)))
    assert max(alone, also) < both < alone + also


@given(some.floats(0.05, 0.9), some.floats(0.01, 3.0), some.floats(0.3, 3.0))
def test_costs_that_follow_a_power_are_read_off_exactly_between_and_beyond(share, size, power):
    truth = lambda s: size * (-math.log1p(-s)) ** power
    costs = Costs({"ffn": ((0.25, truth(0.25)), (0.75, truth(0.75)))})
    assert costs.excess("ffn", share) == pytest.approx(max(truth(share), 0), rel=1e-6) or truth(0.25) < allocation.LEAST


@pytest.mark.parametrize(("costs", "ratio"), [(EVEN, 0.6), (EVEN, 0.9), (NARROW, 0.2)])
def test_of_shapes_that_cost_alike_the_shallowest_is_taken(costs, ratio):
    small = allocation.cheapest_shape(SMOLLM2, costs, ratio, "params")
    removed = lambda shape: targets.removed(SMOLLM2, shape, "params")
    met = [
        s
        for s in allocation.candidate_shapes(SMOLLM2, costs.points, ratio, removed)
        if abs(removed(s) - ratio) <= allocation.NEAR
    ]
    least = min(costs.of(SMOLLM2, shape) for shape in met)
    alike = [shape for shape in met if costs.of(SMOLLM2, shape) <= least * (1 + allocation.ALIKE)]
    assert small in alike and small.depth == min(shape.depth for shape in alike)


def test_ratio_zero_is_the_dense_shape():
    assert allocation.cheapest_shape(SMOLLM2, EVEN, 0.0, "own") == SMOLLM2


def test_what_cannot_be_reached_is_refused_with_what_can():
    only = Costs({"ffn": EVEN.points["ffn"]})
    with pytest.raises(InputError, match=r"removes 0\.5"):
        allocation.cheapest_shape(SMOLLM2, only, 0.9, "params")


@pytest.mark.parametrize("axis", methods.AXES)
def test_a_single_axis_is_not_a_budget(axis):
    with pytest.raises(InputError, match="whole model"):
        claw.compress(tiny_model("llama"), "claw", 0.3, ratio_of=axis)


def test_costs_are_measured_once_and_kept_with_the_statistics(tokenizer, train_text, own_cache, monkeypatch):
    model = tiny_model("llama")
    statistics = calibrate(model, token_blocks.blocks(tokenizer, train_text, length=32, count=64))
    first, report = claw.compress(model, "claw", 0.4, statistics=statistics)
    assert list(statistics.folder.glob("costs-*.json")) and report.ratio_own == pytest.approx(0.4, abs=0.02)
    monkeypatch.setattr("claw.evaluate.held_out.cross_entropy", lambda *_: pytest.fail("measured again"))
    again, _ = claw.compress(model, "claw", 0.4, statistics=statistics)
    assert claw.describe(first) == claw.describe(again)
