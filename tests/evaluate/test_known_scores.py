"""Scores in the cache: found again for equal weights and requests only, and damage counts as missing."""

import numpy as np
import pytest
import torch
from conftest import tiny_model
from lm_eval.api.instance import Instance

from claw import project
from claw.engine.prefix_tree import Request
from claw.evaluate import tasks
from claw.evaluate.known_scores import KnownScores, model_key, requests_hash
from claw.evaluate.lm_eval_model import ClawLM
from claw.models import sources

TASKS = ["a", "a", "b/c", "a"]
ARCHIVES = project.cache() / "archives"
needs_archive = pytest.mark.skipif(
    not (ARCHIVES / sources.task_archive().file).is_file(), reason="the task archive is not in the cache: claw fetch tasks"
)


@pytest.fixture
def own_archives(own_cache):
    """A cache of the test's own, with what the shared one has fetched and unpacked."""
    own_cache.mkdir()
    for name in ("archives", "tasks"):
        if (ARCHIVES.parent / name).exists():
            (own_cache / name).symlink_to(ARCHIVES.parent / name)


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


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model.config, "rms_norm_eps", 1.0),
        lambda model: setattr(model.model.norm, "variance_epsilon", 1.0),
        lambda model: model.model.rotary_emb.inv_freq.mul_(2),
        lambda model: model.model.layers[0].mlp.register_forward_hook(lambda module, args, out: out * 0),
        lambda model: setattr(model.model.layers[0].mlp, "forward", lambda x: x * 0),
    ],
)
def test_whatever_else_computes_is_seen(opened, change):
    model = tiny_model("llama")
    with opened(model) as known:
        known.add(np.arange(4), np.zeros(4), np.zeros(4, dtype=bool))
    assert len(opened(model).missing()) == 0
    change(model)
    assert len(opened(model).missing()) == 4
    with opened(model) as known:
        known.add(np.arange(4), np.ones(4), np.zeros(4, dtype=bool))
    assert not opened().loglikelihood.any()


def test_nothing_is_kept_of_a_model_with_hooks(opened):
    model = tiny_model("llama")
    model.lm_head.register_forward_hook(lambda module, args, out: out)
    with opened(model) as known:
        known.add(np.arange(4), np.zeros(4), np.zeros(4, dtype=bool))
    assert len(opened(model).missing()) == 4 and not (project.cache() / "scores").exists()


@needs_archive
def test_a_hook_is_seen_by_the_next_scores(own_archives, tokenizer):
    """With the cache as without it, by the same object of lm-eval's as by a new one."""
    model, choices = tiny_model("llama"), {"limit": 4, "samples": True}
    scores = lambda **cache: tasks.score_tasks(model, tokenizer, ["piqa"], **choices, **cache)[1]["loglikelihood"]
    language_model = ClawLM(model, tokenizer)
    plain, asked = scores(), [request("the of", " and"), request("to be", " or")]
    assert plain.equals(scores()) and plain.equals(scores(cache=False))
    before = language_model.loglikelihood(asked)
    handles = [layer.mlp.register_forward_hook(lambda module, args, out: out * 0) for layer in model.model.layers]
    hooked = scores()
    assert hooked.equals(scores(cache=False)) and (hooked - plain).abs().max() > 0.1
    assert language_model.loglikelihood(asked) == ClawLM(model, tokenizer, cache=False).loglikelihood(asked) != before
    for handle in handles:
        handle.remove()
    assert scores().equals(plain) and language_model.loglikelihood(asked) == before


def request(context, continuation):
    return Instance(request_type="loglikelihood", doc={}, arguments=(context, continuation), idx=0)


def test_where_requests_end_matters():
    split = [Request.ending([1, 2], 1), Request.ending([3, 4], 1)]
    other = [Request.ending([1, 2, 3], 1), Request.ending([4, 5], 1)]
    assert requests_hash(split) != requests_hash(other)
