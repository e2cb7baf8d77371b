"""Milliseconds as a linear function of a decoder's sizes, and the budget that is spent on them."""

import pytest
from conftest import tiny_model
from hypothesis import given
from hypothesis import strategies as some

import claw
from claw.errors import InputError
from claw.models.anatomy import anatomy
from claw.models.shape import Shape
from claw.prune import allocation, latency, whole_model
from claw.prune.statistics import calibrate
from claw.texts import token_blocks

SMOLLM2 = Shape(vocabulary=49152, hidden=576, depth=30, width=1536, heads=9, groups=3, head_size=64, tied=True)
EVEN = allocation.Costs(dict.fromkeys(("ffn", "heads", "hidden", "layers"), ((0.5, 1.0), (0.9, 3.0))))


@given(some.tuples(*(some.floats(0.01, 2.0) for _ in range(5))))
def test_the_fit_finds_the_coefficients_that_made_the_times(coefficients):
    truth = latency.Latency(coefficients)
    shapes = [SMOLLM2, *latency.measured_shapes(SMOLLM2)]
    fitted = latency.fit_latency(shapes, [truth.milliseconds(shape) for shape in shapes])
    for shape in shapes:
        assert fitted.milliseconds(shape) == pytest.approx(truth.milliseconds(shape), rel=1e-6)


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.7])
def test_a_budget_of_milliseconds_is_met(ratio):
    times = latency.Latency((1.0, 0.1, 0.2, 0.15, 0.1))
    removed = lambda shape: times.removed(SMOLLM2, shape)
    small = allocation.cheapest_shape(SMOLLM2, EVEN, ratio, "milliseconds", removed)
    assert removed(small) == pytest.approx(ratio, abs=0.02)


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.7])
def test_a_budget_of_memory_is_met(ratio):
    small = allocation.cheapest_shape(SMOLLM2, EVEN, ratio, "memory")
    assert 1 - small.memory() / SMOLLM2.memory() == pytest.approx(ratio, abs=0.004)


def test_blocks_go_first_where_they_alone_take_time():
    times = latency.Latency((0.0, 1.0, 0.0, 1e-6, 0.0))
    small = allocation.cheapest_shape(SMOLLM2, EVEN, 0.5, "milliseconds", lambda shape: times.removed(SMOLLM2, shape))
    assert small.depth == 15


def test_milliseconds_are_measured_once_per_machine_and_model(tokenizer, train_text, own_cache, monkeypatch):
    model = tiny_model("llama")
    parts = anatomy(model)
    statistics = calibrate(model, token_blocks.blocks(tokenizer, train_text, length=32, count=16))
    first = latency.measured_latency(parts, statistics)
    assert first.milliseconds(parts.shape) > 0
    monkeypatch.setattr(latency, "Runner", lambda *_: pytest.fail("measured again"))
    assert latency.measured_latency(parts, statistics) == first


def test_claw_reports_the_milliseconds_it_saves(tokenizer, train_text, own_cache, monkeypatch):
    model = tiny_model("llama")
    parts = anatomy(model)
    times = latency.Latency((0.0, 0.0, 1.0, 1.0, 1.0))
    monkeypatch.setattr(latency, "measured_latency", lambda *_: times)
    monkeypatch.setattr(whole_model, "costs", lambda *_: EVEN)
    statistics = calibrate(model, token_blocks.blocks(tokenizer, train_text, length=32, count=16))
    small, report = claw.compress(model, "claw", 0.3, ratio_of="milliseconds", statistics=statistics)
    assert report.ratio_own == pytest.approx(times.removed(parts.shape, anatomy(small).shape))
    assert report.ratio_own == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("method", ["claw", "magnitude"])
def test_reports_say_how_much_memory_was_asked_for(method, tokenizer, train_text, own_cache, monkeypatch):
    model = tiny_model("llama")
    monkeypatch.setattr(whole_model, "costs", lambda *_: EVEN)
    statistics = calibrate(model, token_blocks.blocks(tokenizer, train_text, length=32, count=16))
    small, report = claw.compress(model, method, 0.01, ratio_of="memory", statistics=statistics)
    assert (report.ratio, report.ratio_of) == (0.01, "memory")
    held = [anatomy(each).shape.memory() for each in (model, small)]
    assert 1 - held[1] / held[0] == pytest.approx(0.01, abs=0.005)


def test_only_claw_spends_milliseconds():
    with pytest.raises(InputError, match="only method 'claw'"):
        claw.compress(tiny_model("llama"), "magnitude", 0.3, ratio_of="milliseconds")
