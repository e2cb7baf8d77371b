"""Texts of one kind are near each other, others are far, and little text says nothing."""

import random
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from claw.texts.likeness import distances, warn_if_far
from claw.texts.token_blocks import Blocks


def blocks(seed, first=0, count=100, length=64, kinds=300):
    """Random tokens with the frequencies of words, the most frequent one `first`."""
    draw = random.Random(seed)
    weights = [1 / (i + 2) for i in range(kinds)]
    ids = torch.tensor(draw.choices(range(first, first + kinds), weights, k=count * length)).view(count, length)
    return Blocks(
        ids=ids, scored=torch.ones_like(ids, dtype=torch.bool), words=1.0, bytes=1, corpus=f"from {first}", purpose="x"
    )


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([100, 300]))
def test_one_kind_of_text_is_near_whatever_its_size(seed, count):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_far(blocks(seed, count=count), blocks(seed + 1))
        warn_if_far(blocks(seed, first=250, count=5), blocks(seed + 1))  # too little to tell


@pytest.mark.parametrize("first", [100, 500])
def test_another_kind_is_far_and_named(first):
    with pytest.warns(UserWarning, match=f"'from {first}' is unlike the held-out text 'from 0'"):
        warn_if_far(blocks(1, first), blocks(2))


def test_distances_are_between_0_and_1():
    assert distances(blocks(1, 500), blocks(2))[0] == pytest.approx(1.0)
    across, within = distances(blocks(1), blocks(2))
    assert 0 < within < 0.2 and across == pytest.approx(within, rel=0.15)
