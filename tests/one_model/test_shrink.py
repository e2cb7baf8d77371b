"""From one model to a smaller one: the flow, what it prints, what it refuses, and how far a loss allows to go."""

import math
from pathlib import Path

import pytest
import torch
from conftest import tiny_model

import claw
from claw.cli import main
from claw.errors import InputError
from claw.models.anatomy import anatomy
from claw.one_model import default_method, goal, shrink, until
from claw.one_model.until import Tried
from claw.specs.shrinking import Limit, ShrinkParameters, Target, share_of_all, tokens_of
from claw.specs.spec import build_spec


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def small_texts(train_text, heldout_text):
    return dict(calibrate=train_text, heldout=heldout_text, calibration_tokens=512, heldout_tokens=512, length=64, words=5)


@pytest.fixture
def arguments(train_text, heldout_text):
    texts = ["--calibrate", train_text, "--heldout", heldout_text, "--calibration-tokens", "1024", "--heldout-tokens", "1k"]
    return [*texts, "--length", "64", "--words", "5", "--dtype", "float32"]


def test_the_command_prints_one_screen_and_saves_a_plain_checkpoint(folder_model, arguments, capsys, tmp_path, own_cache):
    assert main(["compress", folder_model, "--remove", "20%", "--out", "small", *arguments]) == 0
    said = capsys.readouterr().out
    for words in (
        "parameters",
        "held-out loss",
        "tokens per second, generating",
        "memory while generating",
        "repeated 4-grams",
    ):
        assert words in said
    assert "Method claw, which loses least" in said
    assert "before" in said and "claw say small" in said and len(said.splitlines()) < 50
    assert max(map(len, said.splitlines())) < 200
    model, _ = claw.load("small", dtype="float32")
    dense, _ = claw.load(folder_model, dtype="float32")
    sizes = [sum(p.numel() for p in each.parameters()) for each in (model, dense)]
    assert 0.1 < 1 - sizes[0] / sizes[1] < 0.3
    card = (tmp_path / "small" / "README.md").read_text()
    assert "## Measured" in card and "held-out loss" in card
    assert main(["compress", folder_model, "--remove", "20%", "--out", "small", *arguments]) == 0  # its own, untouched
    assert main(["say", "small", "the", "--words", "4"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("the")


def test_two_checkpoints_are_compared(folder_model, arguments, capsys):
    assert main(["compress", folder_model, "--remove", "20%", "--method", "magnitude", "--out", "small", *arguments]) == 0
    capsys.readouterr()
    assert main(["compare", folder_model, "small", *arguments[2:4], *arguments[6:]]) == 0
    said = capsys.readouterr().out
    assert f"before: {folder_model}" in said and "times as fast" in said


def test_in_python_with_recovery_and_gguf(folder_model, small_texts, tmp_path, own_cache, train_text):
    from test_gguf_out import plain, trained

    plain("llama").save_pretrained(tmp_path / "m")
    trained().save_pretrained(tmp_path / "m")
    heard = []
    result = claw.shrink(
        "m",
        remove=0.2,
        method="flap+ridge",
        recover="1k",
        gguf="bf16",
        out="out",
        dtype="bfloat16",
        tell=heard.append,
        **small_texts,
    )
    assert result.recovered.asked == 1000 and result.folder == Path("out")
    assert result.gguf.path == tmp_path / "out.bf16.gguf" and math.isclose(result.gguf_loss.mean, result.pair.after.loss.mean)
    assert "llama-quantize" in str(result) and "<table>" in result._repr_html_()
    assert any("training" in line for line in heard) and any("GGUF" in line for line in heard)
    again, _ = claw.load(str(result.gguf.path), dtype="bfloat16")
    ids = torch.arange(12)[None]
    assert torch.equal(again(ids).logits, result.model(ids).logits)


@pytest.mark.parametrize("method", ["magnitude", "wanda-sp+ridge"])
@pytest.mark.parametrize("target", ["params=30k", "memory=120kB"])
def test_a_target_is_met_and_nearly_used(method, target, folder_model, small_texts):
    result = claw.shrink(folder_model, target=target, method=method, out="out", dtype="float32", **small_texts)
    most = Target.model_validate(Target.read(target)).most
    needed = result.pair.after.parameters if "params" in target else result.pair.after.bytes
    assert 0.9 * most < needed <= most


@pytest.mark.parametrize("method", ["magnitude", "claw"])
def test_keys_and_values_count_where_a_context_is_named(method, folder_model, small_texts, own_cache):
    settings = dict(dtype="float32", method=method, context=64, batch=2, **small_texts)
    dense = goal.memory_of(anatomy(tiny_model("llama")).shape, 4, 4, 64, 2)
    result = claw.shrink(folder_model, target=f"memory={0.85 * dense / 1e3:.1f}kB", out="out", **settings)
    need = goal.memory_of(anatomy(result.model).shape, 4, 4, 64, 2)
    assert 0.7 * dense < need <= 0.85 * dense


def test_milliseconds_are_met_by_the_machines_own_times(folder_model, small_texts, monkeypatch):
    from claw.prune import latency

    times = latency.Latency((0.0, 0.0, 0.0, 1e3, 0.0))  # of feed-forward weights alone
    monkeypatch.setattr(latency, "measured_latency", lambda parts, statistics: times)
    dense = times.milliseconds(anatomy(tiny_model("llama")).shape)
    result = claw.shrink(folder_model, target=f"milliseconds={dense / 2:.4f}", method="magnitude", out="o", **small_texts)
    assert times.milliseconds(anatomy(result.model).shape) == pytest.approx(dense / 2, rel=0.05)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "Nothing says"),
        ({"remove": 0.3, "until": "loss +10%"}, "remove and until each say"),
        ({"remove": "30 percent"}, "30%"),
        ({"remove": 30}, "for 30 % write 0.3"),
        ({"remove": 0}, "leaves the model as it is"),
        ({"target": "memory=lots"}, "no amount of memory"),
        ({"target": "speed=2"}, "memory=1.2GB"),
        ({"target": "memory=1GB"}, "meets target .* already"),
        ({"target": "params=1k", "method": "magnitude"}, "cuts ffn alone: the least"),
        ({"remove": 0.9, "method": "flap+ridge"}, "nearest reachable .* claw cuts every axis"),
        ({"until": "accuracy -1%"}, "loss .10%"),
        ({"remove": 0.2, "gguf": "q4_k_m"}, "llama-quantize"),
        ({"remove": 0.2, "gguf": "bf61"}, "bf16"),
        ({"remove": 0.2, "recover": "much"}, "200k"),
        ({"remove": 0.2, "method": "slicegpt-perlayer"}, "no checkpoint"),
        ({"remove": 0.2, "context": 100}, "target memory"),
        ({"remove": 0.2, "tasks": ["nothing"]}, "unknown task"),
        ({"remove": 0.2, "metod": "magnitude"}, "did you mean 'method'"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_paragraph(asked, words, folder_model, small_texts, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=words) as raised:
        claw.shrink(folder_model, **(small_texts | {"out": "out", "dtype": "float32"} | asked))
    assert "\n" not in str(raised.value) and not (tmp_path / "out").exists()


def test_claw_is_taken_where_it_is_quick_and_can_be_and_else_it_is_said(folder_model, monkeypatch):
    parts = anatomy(tiny_model("llama"))
    pick = lambda **asked: default_method.default_method(build_spec(ShrinkParameters, {"model": folder_model, **asked}), parts)
    assert pick(remove=0.3)[0] == pick(target="params=90M")[0] == "claw"
    assert pick(until="loss +10%")[0] == "flap+ridge" and "five times" in pick(until="loss +10%")[1]
    rigid = default_method.default_method(
        build_spec(ShrinkParameters, {"model": "m", "remove": 0.3, "gguf": "bf16"}), anatomy(tiny_model("qwen2"))
    )
    assert rigid[0] == "flap+ridge" and "llama.cpp" in rigid[1] and pick(remove=0.3, gguf="bf16")[0] == "claw"
    with monkeypatch.context() as patch:
        patch.setattr(default_method, "MOST_PARAMETERS", 0)
        assert pick(remove=0.3)[0] == "flap+ridge" and "for long on a CPU" in pick(remove=0.3)[1]
    monkeypatch.setattr(default_method.trial_cut, "why_not", lambda parts, axis: "it is glued" * (axis == "layers"))
    assert pick(remove=0.3) == ("flap+ridge", "Method flap+ridge, because claw cannot cut this model (it is glued).")


def test_nothing_of_others_is_written_over(folder_model, small_texts, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="was not made by claw"):
        claw.shrink(folder_model, remove=0.2, method="magnitude", out="mine", **small_texts)
    (tmp_path / "new.bf16.gguf").write_text("mine")
    with pytest.raises(InputError, match="was not written by claw"):
        claw.shrink(folder_model, remove=0.2, method="magnitude", gguf="bf16", out="new", **small_texts)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear" and not (tmp_path / "new").exists()


def test_a_model_that_gguf_cannot_hold_is_refused_before_work(small_texts, tmp_path, tokenizer, monkeypatch):
    tiny_model("llama", hidden_act="gelu").save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    monkeypatch.setattr(shrink, "compress", None)
    with pytest.raises(InputError, match="activation is gelu"):
        claw.shrink("m", remove=0.2, gguf="q8_0", out="out", **small_texts)


def loss_of(mean):
    from claw.evaluate.held_out import CrossEntropy

    return CrossEntropy(mean=mean, stderr=0.01, tokens=1000, words=700.0, bytes=4000, corpus="t", context=64, data="d")


def maker(curve, reach=0.6, made=None):
    """Points of an invented curve, at ratios in steps of 1 %."""
    shape = anatomy(tiny_model("llama")).shape

    def make(ratio):
        if ratio > reach:
            raise InputError("cannot be reached")
        from claw.prune.compress import CompressionReport

        about = {"method": "m", "ratio": ratio, "ratio_of": "params", "ratio_own": ratio, "seed": 0, "seconds": 0.0}
        report = CompressionReport.of(shape, shape, **about, peak_memory=0)
        step = round(ratio, 2)
        object.__setattr__(report, "ratio_params", step)
        if made is not None:
            made.append(step)
        return Tried(model=object(), report=report, loss=loss_of(curve(step)))

    return make


@pytest.mark.parametrize("rise", [0.05, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("curve", [lambda r: 3 + 4 * r**2, lambda r: 3 * math.exp(r), lambda r: 3 + 2 * r])
def test_the_limit_is_met_by_a_measured_model_and_nearly_used(curve, rise):
    made = []
    answer = until.search(loss_of(3.0), rise, maker(curve, made=made), lambda text: None)
    assert answer.chosen.model is not None and answer.chosen.loss.mean <= 3.0 + rise
    best = max((r / 100 for r in range(60) if curve(r / 100) <= 3 + rise), default=0)
    assert answer.chosen.removed >= best - 0.03 and len(made) <= 9
    assert made[:3] == list(until.POINTS) and "Measured: 3.000 at 0.0%" in answer.sentences()[0]


def test_a_limit_that_nothing_meets_says_what_came_nearest():
    with pytest.raises(InputError, match="least that was tried"):
        until.search(loss_of(3.0), 0.01, maker(lambda r: 6.0), lambda text: None)


def test_until_on_a_model(folder_model, small_texts):
    result = claw.shrink(folder_model, until="loss +2%", method="magnitude", out="out", dtype="float32", **small_texts)
    assert result.pair.after.loss.mean <= 1.02 * result.pair.before.loss.mean
    assert "Read off the curve" in str(result) or "Measured" in str(result)


def test_amounts_are_read_as_people_write_them():
    assert share_of_all("30%") == share_of_all("0.3") == share_of_all(0.3) == 0.3
    assert tokens_of("200k") == tokens_of("0.2M") == tokens_of(200_000.0) == 200_000
    amounts = {"memory=1.2GB": 1.2e9, "memory=1GiB": 2**30, "milliseconds=8": 8, "milliseconds = 8 ms": 8, "params=90M": 9e7}
    for text, most in amounts.items():
        assert Target.read(text)["most"] == most
    limits = {"loss +10%": 0.3, "loss+0.3": 0.3, "perplexity +50%": math.log(1.5)}
    for text, rise in limits.items():
        assert Limit.model_validate(Limit.read(text)).rise_of_loss(3.0) == pytest.approx(rise)


def test_where_it_is_saved_says_what_was_asked(tmp_path):
    place = lambda **asked: Path(build_spec(ShrinkParameters, {"model": "org/m-1b", **asked}).place)
    assert place(remove="30%") == tmp_path / "runs" / "one-model" / "m-1b-30-smaller"
    assert place(until="loss +10%").name == "m-1b-loss-10"
    assert place(target="memory=1.2GB").name == "m-1b-memory-1.2GB"


def test_say_answers_a_question_alone_and_needs_a_template(folder_model, tokenizer, tmp_path, capsys):
    assert main(["say", folder_model, "the", "--chat"]) == 2
    assert "no chat template" in capsys.readouterr().err
    asking = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    asking.chat_template = "Q: {{ messages[0].content }} A:"
    asking.save_pretrained(folder_model)
    assert main(["say", folder_model, "the", "--chat", "--words", "6"]) == 0
    assert "Q: the" not in capsys.readouterr().out
    assert main(["say", folder_model, "the", "--words", "0"]) == 2
