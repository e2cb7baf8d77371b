"""Recovery: every recipe trains, budgets are fair end points of one run, a killed run ends in the same weights."""

import math
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from conftest import byte_tokenizer, tiny_model

import claw
from claw.errors import InputError
from claw.evaluate.held_out import cross_entropy
from claw.models.identity import weights_hash
from claw.recovery import outcome, recipes, run
from claw.recovery.recipes import Student
from claw.specs.experiment import Recovery
from claw.texts import token_blocks

RATES = {"lora": 1e-2, "full": 3e-3, "distill": 3e-3, "norms": 3e-2}


@pytest.fixture(scope="module")
def blocks(tokenizer, train_text):
    return token_blocks.blocks(tokenizer, train_text, length=64, count=96, purpose="recovery", seed=1)


@pytest.fixture(scope="module")
def heldout(tokenizer, heldout_text):
    return token_blocks.blocks(tokenizer, heldout_text, length=64, count=8, purpose="heldout")


def parent(recipe, blocks, family="llama"):
    """For distillation a parent that knows something: the same model, trained on other weights."""
    if recipe != "distill":
        return None
    return claw.recover(tiny_model(family, seed=3), blocks, tokens=4096, recipe="full", learning_rate=5e-3, batch=4)[0]


@pytest.mark.parametrize("recipe", RATES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_recipe_has_gradients_and_lowers_heldout_loss(recipe, dtype, blocks, heldout):
    model = tiny_model("llama", dtype=dtype)
    teacher = parent(recipe, blocks)
    if teacher is not None:
        teacher = teacher.to(dtype)
    before = weights_hash(model)
    student = Student(model, Recovery(recipe=recipe, tokens=4096, length=64), teacher, recipes.TARGETS, seed=0)
    student.loss(blocks.ids[:2], blocks.scored[:2]).backward()
    alive = [p for p in student.trained if p.grad is not None and bool((p.grad != 0).any())]
    # at the start LoRA's first factor has no gradient because its second one is zero
    assert len(alive) >= len(student.trained) // 2
    small, report = claw.recover(
        model, blocks, tokens=4096, recipe=recipe, heldout=heldout, teacher=teacher, learning_rate=RATES[recipe], batch=4
    )
    assert report.last < report.before - 0.1
    assert cross_entropy(small, heldout).mean == pytest.approx(report.last)
    assert weights_hash(model) == before and small.dtype == dtype


def test_every_family_trains_and_stays_a_plain_checkpoint(family, tokenizer, blocks, heldout, tmp_path):
    model = tiny_model(family)
    small, report = claw.recover(model, blocks, tokens=1024, heldout=heldout, batch=4, learning_rate=1e-2)
    assert report.last < report.before
    assert type(small) is type(model) and [n for n, _ in small.named_parameters()] == [n for n, _ in model.named_parameters()]
    claw.save(small, tokenizer, tmp_path / "checkpoint")  # raises if it does not reload with equal logits


def test_reverse_divergence_and_data_loss_are_other_losses(blocks):
    teacher, model = tiny_model("llama", seed=1), tiny_model("llama")
    losses = set()

    def loss(recovery, teacher):
        return round(Student(model, recovery, teacher, (), 0).loss(blocks.ids[:2], blocks.scored[:2]).item(), 3)

    kinds = (("forward", 0.0), ("reverse", 0.0), ("skew", 0.0), ("skew-reverse", 0.0), ("forward", 0.5), ("forward", 1.0))
    for divergence, share in kinds:
        recovery = Recovery(recipe="distill", tokens=64, length=64, divergence=divergence, data_loss=share)
        losses.add(loss(recovery, teacher))
    assert len(losses) == 6
    assert loss(Recovery(recipe="full", tokens=64, length=64), None) in losses  # data_loss = 1 is the cross-entropy


@pytest.mark.parametrize("recipe", ["norms", "distill"])
def test_only_norms_and_biases_are_trained(recipe, family, blocks):
    model = tiny_model(family)
    teacher = parent(recipe, blocks, family)
    choices = {"trains": "norms"} if recipe == "distill" else {}
    small, _ = claw.recover(model, blocks, tokens=512, recipe=recipe, teacher=teacher, batch=4, **choices)
    for (name, before), after in zip(model.named_parameters(), small.parameters(), strict=True):
        assert torch.equal(before, after) != ("norm" in name or name.endswith("bias")), name


@pytest.mark.parametrize("trains", ["lora", "norms"])
def test_distillation_into_few_weights_comes_nearer_to_the_parent(trains, blocks, heldout):
    choices = dict(tokens=4096, recipe="distill", teacher=parent("distill", blocks), trains=trains, batch=4)
    _, report = claw.recover(tiny_model("llama"), blocks, heldout=heldout, learning_rate=RATES[trains], **choices)
    assert report.last < report.before - 0.1


def test_tokens_are_those_really_seen(blocks, monkeypatch):
    seen = []
    plain = Student.loss
    monkeypatch.setattr(Student, "loss", lambda self, ids, scored: (seen.append(ids), plain(self, ids, scored))[1])
    _, report = claw.recover(tiny_model("llama"), blocks, tokens=64 * 21 + 5, batch=8)
    assert report.tokens == 64 * 21 == sum(ids.numel() for ids in seen) and report.asked == 64 * 21 + 5
    assert torch.equal(torch.cat(seen), blocks.ids[:21])
    assert report.epochs == pytest.approx(21 / 96)


def test_text_is_gone_through_again_in_another_order(blocks, monkeypatch):
    few = blocks.part(slice(4))
    seen = []
    plain = Student.loss
    monkeypatch.setattr(Student, "loss", lambda self, ids, scored: (seen.append(ids), plain(self, ids, scored))[1])
    _, report = claw.recover(tiny_model("llama"), few, tokens=64 * 12, batch=4)
    rounds = torch.cat(seen).view(3, 4, 64)
    assert report.epochs == 3
    assert all(torch.equal(r.sort(0).values, few.ids.sort(0).values) for r in rounds) and not torch.equal(rounds[0], rounds[1])


def test_a_milestone_is_what_a_run_of_its_own_gives(blocks, heldout):
    def budgets(*tokens):
        return [Recovery(recipe="full", tokens=t, length=64, batch=4, learning_rate=3e-3) for t in tokens]

    model = tiny_model("llama")
    together = [
        (weights_hash(m), r) for m, r in run.recover_milestones(model, blocks, budgets(1024, 1700, 4096), heldout=heldout)
    ]
    apart = [(weights_hash(m), r) for t in (1024, 1700, 4096) for m, r in run.recover_milestones(model, blocks, budgets(t))]
    assert [h for h, _ in together] == [h for h, _ in apart] and len({h for h, _ in together}) == 3
    assert {r.run for _, r in together} == {r.run for _, r in apart} and len({r.run for _, r in together}) == 1
    assert [r.tokens for _, r in together] == [1024, 26 * 64, 4096]
    for _, report in together:
        assert [m.tokens for m in report.moments] == sorted(m.tokens for m in report.moments)


def test_separate_runs_have_their_own_ids_and_weights(blocks):
    model = tiny_model("llama")
    runs = []
    for tokens in (512, 1024):
        recovery = Recovery(recipe="full", tokens=tokens, length=64, runs="separate")
        runs += [r.run for _, r in run.recover_milestones(model, blocks, [recovery])]
    assert len(set(runs)) == 2
    with pytest.raises(InputError, match="run of its own"):
        list(run.recover_milestones(model, blocks, [Recovery(tokens=t, length=64, runs="separate") for t in (512, 1024)]))


def test_same_seed_same_bits_and_other_seed_others(blocks):
    model = tiny_model("llama")
    hashes = [weights_hash(claw.recover(model, blocks, tokens=1024, seed=s, learning_rate=1e-2)[0]) for s in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_accumulation_and_recomputation_change_nothing_but_rounding(blocks, monkeypatch):
    model = tiny_model("llama")
    recovery = [Recovery(recipe="full", tokens=1024, length=64, batch=4, learning_rate=1e-3)]
    plain, _ = next(run.recover_milestones(model, blocks, recovery))
    few, _ = next(run.recover_milestones(model, blocks, recovery, checkpointing=True))
    monkeypatch.setitem(run.PART_TOKENS, "cpu", 64)
    parts, _ = next(run.recover_milestones(model, blocks, recovery))
    for other in (few, parts):
        for expected, parameter in zip(plain.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(parameter, expected, rtol=1e-3, atol=1e-4)


SCRIPT = """
import sys, torch
sys.path.insert(0, {tests!r})
torch.set_num_threads(1)
from conftest import byte_tokenizer, tiny_model
from claw.models.identity import weights_hash
from claw.recovery import run
from claw.specs.experiment import Recovery
from claw.texts.token_blocks import blocks as token_blocks
blocks = token_blocks(byte_tokenizer(), {text!r}, length=64, count=96, purpose="recovery")
recoveries = [Recovery(recipe="full", tokens=t, length=64, batch=2, learning_rate=3e-3) for t in (3000, 6000)]
model = tiny_model("llama", dtype=torch.bfloat16)
for small, report in run.recover_milestones(model, blocks, recoveries, folder={folder!r}, seconds=0):
    print(weights_hash(small), report.steps, len(report.moments), flush=True)
"""


def test_a_killed_run_ends_in_the_same_weights(train_text, tmp_path):
    def start(folder):
        script = SCRIPT.format(tests=str(Path(__file__).parents[1]), text=train_text, folder=str(tmp_path / folder))
        return subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    whole = start("whole").communicate()[0]
    assert len(whole.splitlines()) == 2
    killed, states = 0, lambda name: list((tmp_path / "killed").glob(f"{name}-*.safetensors"))
    for name in ("stable", "decay"):  # once in the stable phase, once in a decay
        process = start("killed")
        deadline = time.monotonic() + 60
        while not states(name) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.communicate()
    assert killed
    assert start("killed").communicate()[0] == whole
    assert not states("*")


@pytest.mark.parametrize("recipe", ["lora", "full"])
@pytest.mark.parametrize("after", [5, 13, 15])
def test_an_interrupted_run_goes_on(recipe, after, blocks, heldout, tmp_path, monkeypatch):
    def go(folder):
        recoveries = [Recovery(recipe=recipe, tokens=t, length=64, batch=4) for t in (64 * 4 * 12, 64 * 4 * 20)]
        series = run.recover_milestones(
            tiny_model("llama"), blocks, recoveries, heldout=heldout, folder=tmp_path / folder, seconds=0
        )
        return [(weights_hash(m), repr(r.moments), r.steps) for m, r in series]

    whole, calls, plain = go("whole"), [], Student.loss

    def interrupted(self, ids, scored):
        calls.append(1)
        if len(calls) == after:
            raise KeyboardInterrupt
        return plain(self, ids, scored)

    with monkeypatch.context() as patch:
        patch.setattr(Student, "loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            go("broken")
    assert go("broken") == whole


def test_not_a_number_ends_the_run_and_names_the_step(blocks, heldout):
    model = tiny_model("llama")
    recoveries = [Recovery(recipe="full", tokens=t, length=64, batch=4) for t in (1024, 2048)]
    student = Student.loss
    calls = []

    def breaks(self, ids, scored):
        calls.append(1)
        return student(self, ids, scored) * (math.nan if len(calls) >= 3 else 1.0)

    Student.loss = breaks
    try:
        series = list(run.recover_milestones(model, blocks, recoveries, heldout=heldout))
    finally:
        Student.loss = student
    for small, report in series:
        assert report.nan_step == 3 and report.tokens == 2 * 4 * 64 and math.isnan(report.last)
        assert "step 3" in report.summary()
        assert all(p.isfinite().all() for p in small.parameters())


@pytest.mark.parametrize("recipe", ["lora", "full"])
def test_what_is_measured_on_the_way_goes_the_fast_way(recipe, blocks, heldout, monkeypatch):
    """Adapters that are not merged would be scored by the stock forward, which took longer than the training itself."""
    monkeypatch.setattr("claw.engine.score.StockForward", None)
    _, report = claw.recover(tiny_model("llama"), blocks, tokens=64 * 4 * 20, recipe=recipe, heldout=heldout, batch=4)
    assert len(report.moments) > 3 and all(math.isfinite(moment.heldout) for moment in report.moments)


def test_no_more_heldout_tokens_are_read_on_the_way_than_trained_on(blocks, heldout):
    moments = lambda batch: [
        moment.tokens
        for moment in claw.recover(
            tiny_model("llama"), blocks, tokens=64 * 64, recipe="full", heldout=heldout, batch=batch, decay=0.25
        )[1].moments
    ]
    assert heldout.ids.numel() == 64 * 8
    assert moments(2) == [64 * seen for seen in (0, 8, 16, 24, 32, 40, 48, 64)]  # 32 steps, 8 of them decay, every 4 measured
    assert moments(16) == [64 * seen for seen in (0, 16, 32, 48, 64)]  # each step trains on more than is read


def test_going_too_far_is_reported(blocks, heldout):
    few = blocks.part(slice(2))
    _, report = claw.recover(
        tiny_model("llama"), few, tokens=64 * 400, recipe="full", heldout=heldout, learning_rate=1e-2, batch=2
    )
    assert report.overfitted and report.best.heldout < report.last and 0 < report.best.tokens < report.tokens
    assert "too far" in report.summary()


def test_what_came_back_is_measured_by_the_dense_model(blocks, heldout):
    dense = claw.recover(tiny_model("llama"), blocks, tokens=4096, recipe="full", learning_rate=5e-3, batch=4)[0]
    loss = cross_entropy(dense, heldout).mean
    choices = dict(tokens=1024, recipe="full", learning_rate=3e-3, batch=4, heldout=heldout)
    _, report = claw.recover(tiny_model("llama"), blocks, dense=dense, **choices)
    assert report.dense == pytest.approx(loss)
    assert report.share_back == pytest.approx((report.before - report.last) / (report.before - loss))
    assert report.improvement == pytest.approx(1 - report.last / report.before) and "came back" in report.summary()
    values = report.to_dict()
    assert values["share_back"] == report.share_back and values["flops"] > 6 * 1024 * 20_000
    _, report = claw.recover(tiny_model("llama"), blocks, **choices)
    assert math.isnan(report.share_back) and "came back" not in report.summary()
    assert math.isnan(outcome.came_back(3.0, 2.9, 3.1))  # nothing was lost


def test_flops_are_those_of_the_passes(blocks):
    def flops(**choices):
        teacher = tiny_model("llama", seed=1) if choices["recipe"] == "distill" else None
        return claw.recover(tiny_model("llama"), blocks, tokens=256, batch=4, teacher=teacher, **choices)[1].flops

    full = flops(recipe="full")
    assert flops(recipe="lora") == flops(recipe="norms") == pytest.approx(full * 2 / 3)
    assert flops(recipe="distill") == pytest.approx(full * 4 / 3)


def bad_teacher():
    return dict(recipe="distill", teacher=tiny_model("llama", vocab_size=300))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(tokens=63), "not one block fits"),
        (dict(recipe="lore"), "lora"),
        (dict(targets=("q_proj", "c_attn")), "'c_attn' does not exist in LlamaForCausalLM.*q_proj"),
        (dict(targets=()), "does not exist"),
        (dict(recipe="distill"), "pass teacher=dense|Pass teacher=dense"),
        (dict(recipe="full", teacher=tiny_model("llama")), "no teacher"),
        (bad_teacher(), "vocabularies of 259 and 300"),
        (dict(learning_rate=-1.0), "learning_rate"),
        (dict(recipe="distill", teacher=tiny_model("llama"), data_loss=2.0), "data_loss"),
        (dict(recipe="distill", teacher=tiny_model("llama"), divergence="skew", skew=1.0), "skew"),
        (dict(recipe="distill", teacher=tiny_model("llama"), top_k=0), "top_k"),
        (dict(recipe="distill", teacher=tiny_model("llama"), trains="lora", targets=()), "does not exist"),
        (dict(decay=0.0), "decay"),
    ],
)
def test_bad_input_is_refused_before_work(changes, message, blocks, monkeypatch):
    monkeypatch.setattr(run, "Run", None)
    with pytest.raises(InputError, match=message):
        claw.recover(tiny_model("llama"), blocks, **{"tokens": 1024, **changes})


def test_heldout_text_inside_the_training_text_is_refused(tmp_path, heldout_text, train_text, blocks, heldout):
    both = tmp_path / "both.txt"
    both.write_text(Path(train_text).read_text()[:5000] + "\n\n" + Path(heldout_text).read_text())
    leaky = token_blocks.blocks(byte_tokenizer(), str(both), length=64, count=60, purpose="recovery")
    with pytest.raises(InputError, match="% of the held-out text"):
        claw.recover(tiny_model("llama"), leaky, tokens=1024, heldout=heldout)
    _, report = claw.recover(tiny_model("llama"), blocks, tokens=1024, heldout=heldout)
    assert report.overlap < 0.01


def test_an_empty_corpus_is_named(tmp_path, tokenizer):
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(InputError, match="is empty"):
        token_blocks.blocks(tokenizer, str(tmp_path / "empty.txt"), length=64, count=1, purpose="recovery")
