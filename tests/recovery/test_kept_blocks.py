"""Blocks that were kept are recognised by their weights, and hidden states of another space are refused."""

import copy

import pytest
import torch
from conftest import tiny_model
from torch import nn

import claw
from claw.errors import InputError
from claw.recovery.kept_blocks import kept_blocks
from claw.recovery.recipes import TARGETS, Student
from claw.specs.experiment import Recovery
from claw.texts import token_blocks


@pytest.fixture(scope="module")
def dense():
    return tiny_model("llama", num_hidden_layers=6)


def without(dense, *layers):
    small = copy.deepcopy(dense)
    small.model.layers = nn.ModuleList([layer for i, layer in enumerate(small.model.layers) if i not in layers])
    small.config.num_hidden_layers = len(small.model.layers)
    for i, layer in enumerate(small.model.layers):
        layer.self_attn.layer_idx = i
    return small


@pytest.mark.parametrize("gone", [(), (2,), (0, 1), (5,), (1, 3, 4)])
def test_kept_blocks_are_known_also_after_training(dense, gone):
    small = without(dense, *gone)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    assert kept_blocks(small, dense) == [i for i in range(6) if i not in gone]


@pytest.fixture(scope="module")
def blocks(tokenizer, train_text):
    return token_blocks.blocks(tokenizer, train_text, length=64, count=16, purpose="recovery", seed=1)


def loss_of(model, dense, blocks, **choices):
    recovery = Recovery(recipe="distill", tokens=64, length=64, **choices)
    student = Student(model, recovery, dense, TARGETS, 0)
    return float(student.loss(blocks.ids[:2], blocks.scored[:2]).detach()), student


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("stock", [False, True])
def test_the_parents_own_states_cost_nothing_and_others_do(blocks, family, stock, monkeypatch):
    if stock:
        monkeypatch.setattr("claw.engine.training.LONGEST", 1)
    dense = tiny_model(family)
    assert loss_of(dense, dense, blocks, hidden_loss=1.0)[0] == pytest.approx(0, abs=1e-4)
    small = without(dense, 1)
    far, plain = (loss_of(small, dense, blocks, hidden_loss=weight)[0] for weight in (2.0, 0.0))
    ids = blocks.ids[:2]
    own, theirs = (m.model(input_ids=ids, output_hidden_states=True).hidden_states for m in (small, dense))
    places = blocks.scored[:2, 1:]
    pairs = [(own[1], theirs[2]), (own[2], theirs[3])]  # what the second kept block reads, and what the head reads
    apart = [((s - t).norm(dim=-1) / t.norm(dim=-1)).square()[:, :-1][places].sum() for s, t in pairs]
    assert far - plain == pytest.approx(2 * float(sum(apart)) / 2, rel=1e-3)


def test_hidden_states_come_nearer_also_when_recomputed(dense, blocks):
    small = without(dense, 2, 3)
    _, student = loss_of(small, dense, blocks, hidden_loss=1.0)
    grads = []
    for recompute in (False, True):
        if recompute:
            student.recompute()
        student.loss(blocks.ids[:2], blocks.scored[:2]).backward()
        grads.append(torch.cat([p.grad.flatten() for p in student.trained]))
        student.model.zero_grad()
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-3, atol=1e-3)
    choices = dict(recipe="distill", tokens=1024, batch=4, learning_rate=3e-3, teacher=dense)
    tuned, _ = claw.recover(small, blocks, hidden_loss=1.0, **choices)
    both = [loss_of(model, dense, blocks, hidden_loss=1.0)[0] for model in (small, tuned)]
    assert both[1] < both[0]


def test_the_most_probable_tokens_and_hidden_states_go_together(dense, blocks, own_cache):
    claw.recover(without(dense, 2), blocks, tokens=256, recipe="distill", teacher=dense, hidden_loss=1.0, top_k=8)
    assert not (own_cache / "teachers").exists()


def test_states_of_another_space_are_refused(dense, blocks):
    narrow = tiny_model("llama", hidden_size=16, head_dim=8)
    rotated = tiny_model("llama", seed=9)
    for model, message in ((narrow, "16 wide and its parent's 32"), (rotated, "rotated")):
        with pytest.raises(InputError, match=message):
            claw.recover(model, blocks, tokens=256, recipe="distill", teacher=dense, hidden_loss=1.0)
    with pytest.raises(InputError, match="has 6 blocks and its teacher 4"):
        kept_blocks(dense, without(dense, 0, 1))
