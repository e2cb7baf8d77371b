"""Ratios become sizes exactly, on every axis a ratio may count, or are refused with what can be reached."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claw.errors import InputError
from claw.models.shape import Shape
from claw.prune import targets
from claw.specs import methods

SMOL = Shape(vocabulary=49152, hidden=576, depth=30, width=1536, heads=9, groups=3, head_size=64, tied=True)


@given(st.floats(0, 0.95), st.sampled_from([1, 8, 32]))
def test_own_ratio_is_met_to_half_a_step(ratio, step):
    small = targets.size_for(SMOL, "ffn", ratio, round_to=step)
    assert abs(1 - small.width / SMOL.width - ratio) <= step / SMOL.width / 2 + 1e-9 or small.width == step


@given(st.floats(0.01, 0.4), st.sampled_from(["params", "nonembedding", "flops", "memory"]))
def test_a_true_ratio_is_solved_to_half_a_step(ratio, ratio_of):
    small = targets.size_for(SMOL, "ffn", ratio, ratio_of, round_to=8)
    step = targets.removed(SMOL, SMOL.with_(width=SMOL.width - 8), ratio_of)
    assert abs(targets.removed(SMOL, small, ratio_of) - ratio) <= step / 2 + 1e-9


def test_memory_is_weights_and_the_keys_and_values_of_4096_tokens():
    held = SMOL.parameters + 2 * 30 * 3 * 64 * 4096
    assert SMOL.memory() == held and SMOL.memory(100, 2) == SMOL.parameters + 2 * 30 * 3 * 64 * 200
    small = targets.size_for(SMOL, "heads", 0.25, "memory")
    assert targets.removed(SMOL, small, "memory") == pytest.approx(1 - small.memory() / held)
    most = targets.reachable(SMOL, "ffn")[0]  # neurons have no keys and values
    assert targets.removed(SMOL, most, "memory") < targets.removed(SMOL, most, "params")


@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 60))
def test_ratio_zero_is_the_dense_shape(width, groups, depth):
    shape = Shape(vocabulary=100, hidden=16, depth=depth, width=width, heads=groups * 2, groups=groups, head_size=8, tied=True)
    for axis in methods.AXES:
        assert targets.size_for(shape, axis, 0) == shape


def test_what_an_axis_cannot_reach_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"0\.9 of params cannot be reached by cutting 'ffn'.*largest is 0\.5"):
        targets.size_for(SMOL, "ffn", 0.9, "params")


def test_a_ratio_off_the_head_grid_is_refused_with_the_grid():
    with pytest.raises(InputError, match=r"0\.333, 0\.667"):
        targets.size_for(SMOL, "heads", 0.5)
    assert targets.size_for(SMOL, "heads", 0.33).groups == 2


def test_cutting_groups_takes_their_query_heads():
    small = targets.size_for(SMOL, "heads", 1 / 3)
    assert (small.groups, small.heads) == (2, 6)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan"), "0.3", None, True])
def test_a_ratio_outside_its_range_is_refused(ratio):
    with pytest.raises(InputError, match=r"number in \[0, 1\)"):
        targets.check_ratio(ratio)


def test_an_axis_that_the_method_does_not_cut_is_refused():
    with pytest.raises(InputError, match="leaves that untouched"):
        targets.size_for(SMOL, "ffn", 0.3, "layers")


def test_an_unknown_axis_names_the_accepted_ones():
    with pytest.raises(InputError, match=r"unknown ratio_of 'parameters'.*params"):
        targets.check_ratio(0.3, "parameters")


@given(st.sampled_from(["hidden", "heads"]), st.floats(0, 0.6), st.sampled_from([None, 1, 8, 32]))
def test_sizes_are_ones_that_the_stock_configuration_accepts(axis, ratio, round_to):
    dense = SMOL.with_(hidden=960, depth=32, width=2560, heads=15, groups=5, whole_heads=True)
    for small in targets.reachable(dense, axis, round_to):
        assert small.hidden % small.heads == 0
    assert len(targets.reachable(dense, "hidden")) >= 12
    assert len(targets.reachable(dense.with_(whole_heads=False), axis, round_to)) >= len(
        targets.reachable(dense, axis, round_to)
    )
