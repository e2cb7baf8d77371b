"""The best split of a budget between calibration and recovery text: against a grid, by what must not matter, and its fits."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from claw.errors import InputError
from claw.laws.text_split import (
    CalibrationLaw,
    RecoveryLaw,
    TextSplit,
    calibration_flops,
    calibration_laws,
    recovery_flops,
    recovery_law,
    shape_named,
)
from claw.models.shape import Shape

DENSE = Shape(vocabulary=49152, hidden=576, depth=30, width=1536, heads=9, groups=3, head_size=64, tied=True)


@st.composite
def splits(draw) -> TextSplit:
    number = lambda low, high: draw(st.floats(low, high))
    dense = number(1.5, 4)
    return TextSplit(
        calibration=CalibrationLaw(floor=dense + number(0.1, 3), size=number(0.05, 3), exponent=number(0.2, 1.2)),
        recovery=RecoveryLaw(onset=number(1e3, 1e5), power=number(0.02, 0.4)),
        dense=dense,
        calibration_price=number(0.3, 3),
        recovery_price=number(0.3, 3),
        fewest=draw(st.sampled_from([1.0, 4096.0])),
        most=draw(st.sampled_from([131072.0, math.inf])),
    )


budgets = st.floats(2e4, 1e8)


@given(splits(), budgets)
def test_no_split_on_a_grid_loses_less(split, budget):
    calibration, recovery = split.best(budget)
    assert split.fewest <= calibration <= split.most * (1 + 1e-12) and recovery >= 0
    assert split.cost(calibration, recovery) == pytest.approx(budget, rel=1e-9) or recovery == 0
    high = min(split.most, budget / split.calibration_price)
    grid = np.concatenate([np.geomspace(split.fewest, high, 2000), np.linspace(split.fewest, high, 2000)])
    left = np.maximum(0.0, budget - split.calibration_price * grid) / split.recovery_price
    assert split.lowest(budget) <= split.loss(grid, left).min() + 1e-9


@given(splits(), budgets, st.floats(1, 10))
def test_more_budget_never_loses_more(split, budget, times):
    assert split.lowest(times * budget) <= split.lowest(budget) + 1e-12


@given(splits(), budgets, st.floats(0.1, 10), st.floats(1e-3, 1e15))
def test_units_of_loss_and_of_price_change_nothing(split, budget, loss_unit, price_unit):
    law = split.calibration
    other = replace(
        split,
        calibration=replace(law, floor=law.floor * loss_unit, size=law.size * loss_unit),
        dense=split.dense * loss_unit,
        calibration_price=split.calibration_price * price_unit,
        recovery_price=split.recovery_price * price_unit,
    )
    assert other.best(budget * price_unit) == pytest.approx(split.best(budget), rel=1e-6, abs=1e-3)
    assert other.break_even == pytest.approx(split.break_even, rel=1e-9)


@given(splits(), st.floats(1.01, 5))
def test_recovery_begins_at_the_break_even(split, beyond):
    before, after = split.break_even / beyond, min(split.break_even * beyond, split.most)
    if before > split.fewest:
        assert split.best(split.calibration_price * before)[1] == 0
    if split.break_even < after:
        assert split.best(split.calibration_price * after)[1] > 0


@given(splits(), budgets)
def test_what_a_loss_needs_is_the_budget_that_gives_it(split, budget):
    loss = split.lowest(budget)
    assert split.lowest(split.needed(loss)) == pytest.approx(loss, abs=1e-7)
    assert split.needed(loss) <= budget * (1 + 1e-6)


def test_what_cannot_be_is_refused():
    split = TextSplit(
        calibration=CalibrationLaw(floor=4, size=0.5, exponent=0.6),
        recovery=RecoveryLaw(onset=1e4, power=0.1),
        dense=3.0,
        calibration_price=2.0,
        recovery_price=1.0,
        fewest=4096,
    )
    for values, said in (
        ({"recovery_price": 0.0}, "prices above 0"),
        ({"most": 100.0}, "no more of it at the least"),
        ({"dense": 4.0}, "floor is above"),
    ):
        with pytest.raises(InputError, match=said):
            replace(split, **values)
    with pytest.raises(InputError, match="does not pay for 4,096 tokens"):
        split.best(8000)
    with pytest.raises(InputError, match="not above that of the dense model"):
        split.needed(3.0)


def test_laws_come_back_from_points_that_follow_them():
    tokens = np.array([4096, 16384, 65536, 131072] * 2, float)
    curves = np.repeat([0.2, 0.4], 4)
    laws = {0.2: CalibrationLaw(floor=3.4, size=0.3, exponent=0.6), 0.4: CalibrationLaw(floor=4.1, size=0.5, exponent=0.6)}
    losses = np.array([laws[cut].loss(count) for cut, count in zip(curves, tokens, strict=True)])
    for cut, law in calibration_laws(tokens, losses, curves).items():
        assert (law.floor, law.size, law.exponent) == pytest.approx(
            (laws[cut].floor, laws[cut].size, laws[cut].exponent), rel=1e-3
        )
    with pytest.raises(InputError, match="more points than coefficients"):
        calibration_laws(tokens[:3], losses[:3], curves[:3])

    removed, counts = np.repeat([0.3, 0.5, 0.7], 3), np.array([5e4, 2e5, 1e6] * 3)
    true = lambda share: RecoveryLaw(onset=2e4 * math.exp(2 * (share - 0.5)), power=0.08 * math.exp(0.5 - share))
    kept = np.array([true(share).kept(count) for share, count in zip(removed, counts, strict=True)])
    law = recovery_law(removed, counts, kept)(0.4)
    assert (law.onset, law.power) == pytest.approx((true(0.4).onset, true(0.4).power), rel=1e-3)
    with pytest.raises(InputError, match="five points at two shares"):
        recovery_law(removed[:3], counts[:3], kept[:3])


def test_prices_follow_the_shapes():
    small = shape_named("d 504 depth 18 m 736 groups 2", DENSE)
    assert (small.hidden, small.depth, small.width, small.groups, small.heads) == (504, 18, 736, 2, 6)
    assert shape_named("d 576 depth 30 m 1536 groups 3", DENSE) == DENSE
    assert recovery_flops(small, 512) == 2 * small.flops_per_token(512)
    assert recovery_flops(small, 512, full=True, teacher=DENSE) == 3 * small.flops_per_token(512) + DENSE.flops_per_token(512)
    no_head = lambda shape: shape.flops_per_token(512) - 2 * shape.vocabulary * shape.hidden
    empty = small.with_(depth=0)
    assert calibration_flops(DENSE, empty, 512) == no_head(DENSE)
    assert no_head(DENSE) + no_head(small) < calibration_flops(DENSE, small, 512) < 2 * (no_head(DENSE) + no_head(small))
    with pytest.raises(InputError, match="names no shape"):
        shape_named("d 504", DENSE)
