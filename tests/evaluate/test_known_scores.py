"""Scores in the cache: found again for equal weights and requests only, and damage counts as missing."""

import numpy as np
import pytest
import torch
from conftest import tiny_model

from claw import project
from claw.engine.prefix_tree import Request
from claw.evaluate.known_scores import KnownScores, model_key, requests_hash

TASKS = ["a", "a", "b/c", "a"]


@pytest.fixture
def requests():
    return [Request.ending([1, 2, 3, 4 + i], 1) for i in range(4)]


@pytest.fixture
def opened(own_cache, requests):
    return lambda model=None, requests=requests, tasks=TASKS: KnownScores(requests, tasks, model or tiny_model("llama"))


def test_what_was_added_is_known_again(opened):
    with opened() as known:
        assert known.missing().tolist() == [0, 1, 2, 3]
        known.add(np.array([0, 2]), np.array([-1.5, -2.5]), np.array([True, False]))
    again = opened()
    assert again.missing().tolist() == [1, 3]
    assert again.loglikelihood[[0, 2]].tolist() == [-1.5, -2.5] and again.greedy.tolist() == [True, False, False, False]


def test_it_saves_when_left_by_an_error(opened):
    with pytest.raises(KeyboardInterrupt), opened() as known:
        known.add(np.array([1]), np.array([-1.0]), np.array([False]))
        raise KeyboardInterrupt
    assert opened().missing().tolist() == [0, 2, 3]


def test_nan_is_a_score(opened):
    with opened() as known:
        known.add(np.arange(4), np.full(4, np.nan), np.zeros(4, dtype=bool))
    assert len(opened().missing()) == 0


def test_other_weights_requests_or_targets_are_not_known(opened, requests):
    with opened() as known:
        known.add(np.arange(4), np.zeros(4), np.zeros(4, dtype=bool))
    assert len(opened(tiny_model("llama", seed=1)).missing()) == 4
    assert opened(requests=[Request.ending([1, 2, 3, 9], 1), *requests[1:]]).missing().tolist() == [0, 1, 3]
    assert opened(requests=[Request.ending([1, 2, 3, 4], 2), *requests[1:]]).missing().tolist() == [0, 1, 3]
    assert opened(tasks=["x"] * 4).missing().tolist() == [0, 1, 2, 3]


def test_a_damaged_file_counts_as_missing(opened):
    with opened() as known:
        known.add(np.arange(4), np.zeros(4), np.zeros(4, dtype=bool))
    for path in (project.cache() / "scores").glob("*/a-*.npy"):
        path.write_bytes(path.read_bytes()[:-7])
    assert opened().missing().tolist() == [0, 1, 3]


def test_no_scratch_is_left(opened):
    with opened() as known:
        known.add(np.arange(4), np.zeros(4), np.zeros(4, dtype=bool))
    assert not list((project.cache() / "scores").glob("*/.writing-*"))


def test_the_model_is_named_by_its_weights_and_configuration():
    model = tiny_model("mistral")
    first = model_key(model)
    assert first == model_key(tiny_model("mistral"))
    model.config.sliding_window = 8
    assert model_key(model) != first
    assert model_key(tiny_model("mistral", dtype=torch.bfloat16)) != first


def test_where_requests_end_matters():
    split = [Request.ending([1, 2], 1), Request.ending([3, 4], 1)]
    other = [Request.ending([1, 2, 3], 1), Request.ending([4, 5], 1)]
    assert requests_hash(split) != requests_hash(other)
