"""A dense model's way through text: kept, it is the same, and the model goes over it once."""

from collections import namedtuple

import pytest
import torch
from conftest import tiny_model
from trained import untrained

from claw.models.anatomy import anatomy
from claw.models.identity import weights_hash
from claw.prune import dense_walk, regression, whole_model
from claw.prune.dense_walk import DenseWalk, dense_walks
from claw.prune.statistics import calibrate
from claw.texts import token_blocks


@pytest.fixture
def blocks(tokenizer, train_text):
    return token_blocks.blocks(tokenizer, train_text, length=32, count=64)


def passages(walk, watched):
    walk.restart()
    return [walk.pass_block(layer, watched=layer.index in watched) for layer in walk.parts.layers]


def equal(one, other):
    tensors = [[*passage.read, *passage.written, passage.middle, passage.after] for passage in (one, other)]
    return all(torch.equal(*both) for both in zip(*tensors, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gemma3", "phi", "gpt_neox"])
@torch.no_grad()
def test_a_kept_walk_is_the_same_and_is_made_once(family, dtype, blocks, tmp_path, monkeypatch):
    parts = anatomy((tiny_model(family) if family in ("llama", "gemma3") else untrained(family, vocab_size=259)).to(dtype))
    everything = range(parts.depth)
    fresh = passages(DenseWalk(parts, blocks.ids[:8]), everything)
    walk = DenseWalk(parts, blocks.ids[:8], tmp_path)
    first = passages(walk, (0,))
    monkeypatch.setattr(dense_walk, "run_block", None)
    again = passages(walk, everything)
    assert not list(tmp_path.iterdir())  # what is mapped has no name that could be left behind
    assert all(equal(*both) for both in zip(fresh, again, strict=True))
    assert equal(fresh[0], first[0]) and not any(first[1:])  # what is not watched is kept, and not given
    assert torch.equal(walk.stream, fresh[-1].after)


@torch.no_grad()
def test_a_walk_that_is_not_kept_gives_only_what_is_watched(blocks, tmp_path):
    parts = anatomy(tiny_model("llama"))
    assert [passage is not None for passage in passages(DenseWalk(parts, blocks.ids[:8]), (1,))] == [
        layer.index == 1 for layer in parts.layers
    ]


@pytest.mark.parametrize("full", [True, False])
@torch.no_grad()
def test_a_disk_without_room_keeps_nothing_and_breaks_nothing(full, blocks, tmp_path, monkeypatch):
    parts = anatomy(tiny_model("llama"))
    everything = range(parts.depth)
    fresh = passages(DenseWalk(parts, blocks.ids[:8]), everything)
    usage = namedtuple("usage", "free")(dense_walk.SPARE_BYTES if full else 1 << 60)
    monkeypatch.setattr(dense_walk.shutil, "disk_usage", lambda _: usage)
    if not full:

        def failing(*_):
            raise OSError("No space left on device")

        monkeypatch.setattr(dense_walk, "_mapped", failing)
    walk = DenseWalk(parts, blocks.ids[:8], tmp_path)
    for kept in (passages(walk, everything), passages(walk, everything)):
        for one, other in zip(fresh, kept, strict=True):
            assert equal(one, other)
    assert not walk.known


def test_two_models_fitted_to_one_walk_are_those_fitted_to_the_text(blocks, own_cache):
    parts = anatomy(tiny_model("llama"))
    statistics = calibrate(parts.model, blocks)
    walks = dense_walks(parts, blocks, keep=statistics.folder)
    for target in (parts.shape.with_(width=40), parts.shape.with_(hidden=24, depth=2)):
        units = whole_model.units_of(parts, target, statistics)
        one, other = (regression.regressed(parts, target, units, statistics, text) for text in (blocks, walks))
        assert weights_hash(one) == weights_hash(other)


def test_costs_take_the_dense_model_over_the_text_once(blocks, own_cache, monkeypatch):
    model = tiny_model("llama")
    parts = anatomy(model)
    statistics = calibrate(model, blocks)
    plain, passed = dense_walk.run_block, []
    monkeypatch.setattr(dense_walk, "run_block", lambda layer, *rest: passed.append(layer.index) or plain(layer, *rest))
    whole_model.costs(parts, statistics)
    assert len(whole_model.axis_shapes(parts)) > 2
    assert len(passed) == parts.depth * len(dense_walks(parts, whole_model.calibration_text(statistics, "linears")))
