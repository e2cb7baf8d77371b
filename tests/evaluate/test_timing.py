"""Speed: turns are taken, ratios and intervals follow from the times, ideals from the shapes, errors come first."""

import numpy as np
import pytest
import torch
from conftest import tiny_model
from hypothesis import given
from hypothesis import strategies as st

import claw
from claw.errors import InputError
from claw.evaluate import timing
from claw.models.anatomy import describe
from claw.models.shape import Shape
from claw.specs.experiment import Speed

SMOL = Shape(vocabulary=49152, hidden=576, depth=30, width=1536, heads=9, groups=3, head_size=64, tied=True)
FEW = dict(prompt=12, generate=3, rounds=3)


@pytest.fixture(scope="module")
def pair():
    return tiny_model("llama", num_hidden_layers=1), tiny_model("llama")


def test_the_two_take_turns_after_warming_up(pair, monkeypatch):
    small, dense = pair
    called = []
    plain = timing.Runner.__call__
    monkeypatch.setattr(timing.Runner, "__call__", lambda self: (called.append(self.model is small), plain(self))[1])
    report = claw.measure_speed(small, against=dense, batches=[2], **FEW)
    rounds = called[:-2]  # the last two measure memory
    assert rounds == [False, True] * (1 + FEW["rounds"])
    assert {(t.phase, t.batch) for t in report.timings} == {("prefill", 2), ("decode", 2)}
    assert all(t.seconds > 0 and t.low <= t.speedup <= t.high for t in report.timings)


def test_a_fast_and_a_slow_model_are_told_apart_in_words(pair, monkeypatch):
    small, dense = pair

    def measured(factor):
        times = {False: 1.0, True: factor}
        monkeypatch.setattr(timing.Runner, "__call__", lambda self: dict.fromkeys(timing.PHASES, times[self.model is small]))
        return claw.measure_speed(small, against=dense, batches=[1], **FEW)

    fast, slow, equal = measured(0.5), measured(2.0), measured(1.0)
    assert fast.of("decode", 1).speedup == 2 and slow.of("prefill", 1).speedup == 0.5
    assert "2.00 times as fast" in fast.sentences()
    assert "SLOWER than dense: it takes 2.00 times" in slow.sentences()
    assert "not measurably" in equal.sentences()
    columns = fast.to_dict()
    assert columns["speedup_decode"] == 2 and columns["speedup_decode_low"] == 2 and columns["ideal_decode"] > 1


def test_batches_have_columns_of_their_own(pair):
    columns = claw.measure_speed(pair[0], against=pair[1], batches=[1, 2], **FEW).to_dict()
    assert {"speedup_prefill", "speedup_decode_low", "speedup_decode_batch2", "ideal_prefill_batch2"} <= columns.keys()


def test_every_family_can_be_timed(family):
    model = tiny_model(family)
    report = claw.measure_speed(model, against=model, batches=[2], **FEW)
    assert all(t.ideal == 1 for t in report.timings) and report.memory == pytest.approx(report.memory0, rel=0.05)


def test_memory_counts_weights_and_what_is_held(pair):
    small, dense = pair
    report = claw.measure_speed(small, against=dense, batches=[1], **FEW)
    weights = sum(p.numel() * p.element_size() for p in dense.parameters())
    assert weights < report.memory0 < 10 * weights and report.memory < report.memory0


def test_held_bytes_rise_and_fall():
    with timing.Held() as held:
        kept = torch.zeros(1000)
        more = torch.zeros(5000) + 1  # two tensors of 20 kB at once
        del more
        kept.add_(1).view(10, 100)
    assert held.highest == 44_000 and held.now == 4_000


@given(st.integers(0, 29), st.integers(1, 64))
def test_ideals_follow_from_shapes(removed, batch):
    small = SMOL.with_(depth=SMOL.depth - removed)
    for phase in timing.PHASES:
        ideal = timing.ideal_ratio(phase, SMOL, small, batch=batch, speed=Speed(), element=2)
        assert ideal >= 1 and (ideal == 1) == (removed == 0)
    prefill = timing.ideal_ratio("prefill", SMOL, small, batch=batch, speed=Speed(), element=2)
    assert prefill < SMOL.depth / small.depth + 1e-9  # the head stays


def test_ideals_on_known_shapes():
    tiny = Shape(vocabulary=10, hidden=4, depth=1, width=8, heads=2, groups=1, head_size=2, tied=True)
    block = 4 * 4 + 2 * (2 * 4) + 4 * 4 + 3 * (8 * 4)
    assert timing.prefill_flops(tiny, 6) == 6 * 2 * (block + 4 * 6) + 2 * 10 * 4
    half = tiny.with_(width=4)
    read = [shape.parameters / 3 + 2 * 2 * (5 + 1) for shape in (tiny, half)]
    ideal = timing.ideal_ratio("decode", tiny, half, batch=3, speed=Speed(prompt=5, generate=2), element=2)
    assert ideal == pytest.approx(read[0] / read[1])
    assert describe(tiny_model("llama", num_hidden_layers=1)).parameters < describe(tiny_model("llama")).parameters


@given(st.lists(st.floats(0.5, 2), min_size=3, max_size=20))
def test_the_interval_holds_the_median_and_is_reproducible(ratios):
    dense = np.array(ratios)
    first, again = (timing.interval(dense, np.ones(len(dense))) for _ in range(2))
    assert first == again and first[1] <= first[0] <= first[2] and first[0] == pytest.approx(np.median(ratios))


@pytest.mark.parametrize(
    ("make", "choices", "message"),
    [
        (lambda: tiny_model("llama", vocab_size=300), {}, "vocabularies of 300 and 259"),
        (lambda: tiny_model("llama", dtype=torch.bfloat16), {}, "number type torch.bfloat16"),
        (lambda: tiny_model("llama"), {"prompt": 250, "generate": 10}, "256 positions"),
        (lambda: tiny_model("llama"), {"prompt": 0}, "prompt"),
        (lambda: tiny_model("llama"), {"rounds": 2}, "rounds"),
        (lambda: tiny_model("llama"), {"batch": 2}, "batches"),
    ],
)
def test_bad_input_is_refused_before_timing(make, choices, message, pair, monkeypatch):
    monkeypatch.setattr(timing, "Runner", None)
    with pytest.raises(InputError, match=message):
        claw.measure_speed(make(), against=pair[1], **choices)
