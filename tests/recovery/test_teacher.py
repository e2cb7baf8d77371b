"""A teacher's most probable tokens are computed once per text, and are those of no other teacher, text or tokenizer."""

import json
from types import SimpleNamespace

import pytest
import torch
from conftest import byte_tokenizer, tiny_model
from safetensors.torch import load_file, save_file

import claw
from claw.errors import InputError
from claw.models.identity import weights_hash
from claw.recovery import run, teacher
from claw.recovery.recipes import TARGETS, Student
from claw.recovery.teacher import Teacher, remember
from claw.specs.experiment import Recovery
from claw.texts import token_blocks

CHOICES = dict(recipe="distill", length=64, batch=4, learning_rate=3e-3)


@pytest.fixture(autouse=True)
def kept(own_cache, monkeypatch):
    """A cache of one's own, of small files: four blocks of 64 tokens each."""
    monkeypatch.setattr(teacher, "PART", 256)
    return own_cache / "teachers"


@pytest.fixture(scope="module")
def blocks(tokenizer, train_text):
    return token_blocks.blocks(tokenizer, train_text, length=64, count=24, purpose="recovery", seed=1)


@pytest.fixture(scope="module")
def dense():
    return tiny_model("llama", seed=3)


@pytest.fixture
def passes(monkeypatch):
    """How many blocks teachers were asked about."""
    seen, plain = [], Teacher.hidden

    def counted(self, ids, inputs=None):
        seen.append(len(ids))
        return plain(self, ids, inputs)

    monkeypatch.setattr(Teacher, "hidden", counted)
    return seen


def test_what_is_kept_is_what_the_teacher_says(dense, blocks):
    known = remember(dense, blocks, 16)
    for ids in (blocks.ids[:3], blocks.ids[[22, 5]]):
        mine, own = known.top(ids, 16), Teacher(dense).top(ids, 16)
        torch.testing.assert_close(mine.logarithms, own.logarithms, rtol=0, atol=2e-3)
        assert (mine.ids == own.ids).float().mean() > 0.99  # two tokens may be as probable as each other
    assert known.top(blocks.ids[:1], 16).ids.shape == (63, 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_is_the_same_from_memory_and_from_the_teacher(dense, blocks, dtype):
    model, dense = tiny_model("llama", dtype=dtype), tiny_model("llama", seed=3, dtype=dtype)
    recovery = Recovery(tokens=512, top_k=16, **CHOICES)
    losses = []
    for source in (dense, remember(dense, blocks, 16)):
        student = Student(model, recovery, source, TARGETS, 0)
        student.loss(blocks.ids[:4], blocks.scored[:4]).backward()
        losses.append(torch.cat([p.grad.float().flatten() for p in student.trained]))
    assert float((losses[0] - losses[1]).norm() / losses[0].norm()) < (5e-3 if dtype == torch.float32 else 3e-2)


def test_one_pass_serves_methods_recipes_and_budgets(dense, blocks, passes, kept):
    for tokens, choices in ((1024, {}), (1536, {"divergence": "skew"}), (512, {"trains": "lora", "data_loss": 0.5})):
        for seed in (0, 1):
            claw.recover(tiny_model("llama", seed), blocks, tokens=tokens, teacher=dense, top_k=8, **CHOICES | choices)
    assert sum(passes) == 24
    assert len(list(kept.glob("*/*.safetensors"))) == 6
    first = run.recover_milestones(
        tiny_model("llama"), blocks, [Recovery(tokens=t, top_k=8, **CHOICES) for t in (512, 1024)], teacher=dense
    )
    assert [r.tokens for _, r in first] == [512, 1024] and sum(passes) == 24
    remember(dense, blocks, 9)
    assert sum(passes) == 48


def test_what_was_remembered_stands_in_for_the_teacher(dense, blocks):
    known = remember(dense, blocks, 8)
    smalls = [
        weights_hash(claw.recover(tiny_model("llama"), blocks, tokens=1024, teacher=t, top_k=8, **CHOICES)[0])
        for t in (dense, known)
    ]
    assert smalls[0] == smalls[1]


def test_memory_of_another_text_tokenizer_or_k_is_refused(dense, blocks, tokenizer, train_text, monkeypatch):
    known = remember(dense, blocks.part(slice(8)), 8)
    other = token_blocks.blocks(tokenizer, train_text, length=64, count=8, purpose="recovery", seed=2)
    monkeypatch.setattr(run, "Run", None)  # before any work

    def asked(model, blocks, **choices):
        return claw.recover(model, blocks, teacher=known, **{"tokens": 512, "top_k": 8} | CHOICES | choices)

    with pytest.raises(InputError, match="another text or tokenizer: 8 of 8 blocks"):
        asked(tiny_model("llama"), other)
    with pytest.raises(InputError, match="another text or tokenizer: 2 of 10 blocks"):
        asked(tiny_model("llama"), blocks, tokens=640)
    with pytest.raises(InputError, match=r"over 259 tokens.*has 300"):
        asked(tiny_model("llama", vocab_size=300), blocks)
    with pytest.raises(InputError, match="top_k = 9"):
        asked(tiny_model("llama"), blocks, top_k=9)
    for choices in ({"top_k": None}, {"hidden_loss": 1.0}):
        with pytest.raises(InputError, match="most probable tokens"):
            asked(tiny_model("llama"), blocks, **choices)


def test_a_file_of_another_text_is_refused(dense, blocks, kept):
    remember(dense, blocks.part(slice(4)), 8)
    (path,) = kept.glob("*/*.safetensors")
    tensors = load_file(path)
    path.unlink()
    path.with_name(path.name + ".seal").unlink()
    about = {"version": 1, "teacher": path.parent.name, "k": 8, "text": "0" * 16}

    def made(place, make):
        save_file(tensors, place, metadata={"about": json.dumps(about)})
        return place

    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(InputError, match=r"something else than its name says \(other text\)"),
    ):
        patch.setattr(teacher, "made_once", made)
        remember(dense, blocks.part(slice(4)), 8)


def test_a_full_disk_is_named_before_the_pass(dense, blocks, monkeypatch, passes):
    monkeypatch.setattr(teacher.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match="Free some space, set CLAW_CACHE"):
        remember(dense, blocks, 8)
    assert not passes


def test_a_teacher_that_no_name_can_hold_is_asked_each_time(dense, blocks, passes):
    odd = tiny_model("llama", seed=3)
    odd.model.layers[0].register_forward_hook(lambda module, args, output: output)
    with pytest.raises(InputError, match="a hook on"):
        remember(odd, blocks, 8)
    for _ in range(2):
        claw.recover(tiny_model("llama"), blocks, tokens=512, teacher=odd, top_k=8, **CHOICES)
    assert sum(passes) == 16


def test_another_tokenizer_makes_another_text(dense, train_text, kept):
    for tokenizer in (byte_tokenizer(), byte_tokenizer()):
        remember(dense, token_blocks.blocks(tokenizer, train_text, length=64, count=4, purpose="recovery"), 4)
    assert len(list(kept.glob("*/*.safetensors"))) == 1
