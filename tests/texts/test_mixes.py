"""Mixes of texts: named in one way, drawn in their shares, checked part by part, refused before work."""

import json

import pytest
import torch
from conftest import tiny_model
from hypothesis import given
from hypothesis import strategies as st

from claw.errors import InputError
from claw.specs.experiment import Calibration, Compression, Experiment, Recovery
from claw.specs.mixture import mix_shares, mix_text
from claw.specs.notebooks import CompressParameters
from claw.specs.shrinking import ShrinkParameters
from claw.specs.spec import build_spec
from claw.stages.checkpoints import _portable_spec
from claw.stages.compress import statistics_for
from claw.sweep import checks
from claw.texts import token_blocks

names = st.text("abcdefg-_./#: 0123456789", min_size=1, max_size=12).map(str.strip).filter(bool)
weights = st.dictionaries(names, st.integers(1, 1000), min_size=2, max_size=5).map(
    lambda counts: {name: count / sum(counts.values()) for name, count in counts.items()}
)


@pytest.fixture(scope="module")
def other_text(tmp_path_factory):
    """Text of capitals alone, so that its blocks can be told from those of the other text."""
    path = tmp_path_factory.mktemp("other") / "capitals.txt"
    path.write_text("\n\n".join(f"{'ABCDEFGHIJKLMNOP'[n % 16]} " * 40 for n in range(60)))
    return str(path)


@given(weights)
def test_a_mapping_becomes_one_line_and_comes_back(shares):
    line = mix_text(shares)
    assert mix_text(line) == line and mix_text(dict(reversed(shares.items()))) == line
    assert mix_shares(line) == pytest.approx(shares, rel=1e-8)


@pytest.mark.parametrize("plain", ["wikipedia-train", "a + b.txt", "0.5 notes.txt", "hub:a/b:c:train"])
def test_a_plain_name_is_no_mix(plain):
    assert mix_text(plain) == plain and mix_shares(plain) == {plain: 1.0} and mix_text({plain.replace(" + ", ""): 1})


@pytest.mark.parametrize(
    "given, said",
    [
        ({"a": 0.7, "b": 0.2}, "add up to 0.9, not to 1. In these proportions they are {a: 0.7778, b: 0.2222}"),
        ("0.7 a + 0.7 b", "add up to 1.4"),
        ({"a": 1.5, "b": -0.5}, "must be between 0 and 1"),
        ({"a": "0.5", "b": 0.5}, "is no number"),
        ({"a": True, "b": 0.5}, "is no number"),
        ({"a": float("nan"), "b": 0.5}, "no number"),
        ({"a": 0.5}, "Name the text alone"),
        ({"": 0.5, "b": 0.5}, "cannot name a text"),
        ({"a + b": 0.5, "c": 0.5}, "Rename the file"),
        ({}, "a mix without texts"),
        ("0.5 a + 0.5 a", "twice"),
    ],
)
def test_shares_that_cannot_be_are_refused(given, said):
    with pytest.raises(InputError) as error:
        mix_text(given)
    assert said in str(error.value)
    with pytest.raises(InputError):
        build_spec(Calibration, {"corpus": given})


def test_every_spec_takes_a_mix_and_holds_the_line():
    mix, line = {"wikipedia-train": 0.7, "my.jsonl": 0.3}, "0.3 my.jsonl + 0.7 wikipedia-train"
    assert build_spec(Calibration, {"corpus": mix}).corpus == line
    assert build_spec(Recovery, {"corpus": mix}).digest == build_spec(Recovery, {"corpus": line}).digest
    asked = {"model": "m", "method": "flap", "ratios": [0.3], "calibration": mix}
    assert build_spec(CompressParameters, asked).curve.calibration.corpus == line
    assert build_spec(ShrinkParameters, {"model": "m", "remove": 0.3, "calibrate": line}).calibration.corpus == line
    assert "my.jsonl" in json.dumps(build_spec(Calibration, {"corpus": mix}).model_dump())


@pytest.mark.parametrize("purpose, seed", [("calibration", 0), ("recovery", 3)])
def test_blocks_are_drawn_in_their_shares_and_spread(tokenizer, train_text, other_text, purpose, seed):
    mix = {train_text: 0.75, other_text: 0.25}
    draw = lambda given: token_blocks.blocks(tokenizer, given, length=32, count=40, purpose=purpose, seed=seed)
    mixed = draw(mix)
    part = lambda name, count: token_blocks.blocks(tokenizer, name, length=32, count=count, purpose=purpose, seed=seed)
    own, other = part(train_text, 30), part(other_text, 10)
    rows = {tuple(row) for row in other.ids.tolist()}
    from_other = torch.tensor([tuple(row) in rows for row in mixed.ids.tolist()])
    assert from_other.sum() == 10
    assert torch.equal(mixed.ids[from_other], other.ids) and torch.equal(mixed.ids[~from_other], own.ids)
    assert mixed.words == own.words + other.words and mixed.bytes == own.bytes + other.bytes
    for count in range(4, 41, 4):  # any beginning has about its share
        assert abs(int(from_other[:count].sum()) - count / 4) <= 1
    assert draw(mix_text(mix)).sha256 == mixed.sha256 == draw(dict(reversed(mix.items()))).sha256
    assert mixed.corpus == mix_text(mix)


def test_counts_add_up_and_are_nearest_to_the_shares():
    counts = token_blocks.mixed_counts("0.5 a + 0.3 b + 0.2 c", 11)
    assert counts == {"a": 6, "b": 3, "c": 2} or sum(counts.values()) == 11
    assert all(abs(own - share * 11) < 1 for own, share in zip(counts.values(), (0.5, 0.3, 0.2), strict=True))
    assert token_blocks.mixed_counts("plain", 7) == {"plain": 7}


def test_what_a_mix_cannot_be_drawn_from_is_refused(tokenizer, train_text, other_text, heldout_text):
    draw = lambda mix, count=40, **choices: token_blocks.blocks(tokenizer, mix, length=32, count=count, **choices)
    with pytest.raises(InputError, match=r"no-such\.txt"):
        draw({train_text: 0.5, "no-such.txt": 0.5})
    with pytest.raises(InputError, match="for evaluation only"):
        draw({train_text: 0.5, "wikipedia-heldout": 0.5})
    with pytest.raises(InputError, match=r"In the mix .*capitals\.txt' has only .*smaller share"):
        draw({train_text: 0.001, other_text: 0.999}, 2000)
    with pytest.raises(InputError, match=r"too few for the mix .* at least 100 blocks"):
        draw({train_text: 0.99, other_text: 0.01})
    with pytest.raises(InputError, match="cannot serve as held-out text"):
        draw({train_text: 0.5, other_text: 0.5}, purpose="heldout")
    with pytest.raises(InputError, match=r"must not be tested"):
        token_blocks.check_disjoint(mix_text({train_text: 0.5, heldout_text: 0.5}), heldout_text)
    token_blocks.check_disjoint(mix_text({train_text: 0.5, other_text: 0.5}), heldout_text)


def test_a_study_counts_the_text_of_each_part(study, tmp_path, own_cache):
    short = tmp_path / "short.txt"
    short.write_text("only a few words here " * 20)
    mix = mix_text({study.calibration.corpus: 0.5, str(short): 0.5})
    wants = study.calibration.model_copy(update={"corpus": mix, "tokens": 65536})
    asked = study.model_copy(update={"calibration": wants, "methods": ("flap",)})
    with pytest.raises(InputError, match=r"short\.txt has only"):
        checks._check_texts(asked, study.models[0])


def test_a_mix_is_calibrated_on_and_named_with_its_checkpoint(tokenizer, train_text, other_text, own_cache):
    mix = mix_text({train_text: 0.5, other_text: 0.5})
    wants = build_spec(Calibration, {"corpus": mix, "tokens": 512, "length": 32})
    statistics = statistics_for(wants, 0, tiny_model("llama"), tokenizer)
    assert statistics.corpus == mix and statistics.tokens == 512
    compression = build_spec(Compression, {"model": "m", "method": "flap", "ratio": 0.3, "calibration": {"corpus": mix}})
    named = _portable_spec(Experiment(compression=compression))["compression"]["calibration"]["corpus"]
    assert named == "0.5 capitals.txt + 0.5 train.txt"


def test_files_of_one_name_are_told_as_one():
    mix = {"a/x.txt": 0.25, "b/x.txt": 0.25, "c.txt": 0.5}
    compression = build_spec(Compression, {"model": "m", "method": "flap", "ratio": 0.3, "calibration": {"corpus": mix}})
    assert (
        _portable_spec(Experiment(compression=compression))["compression"]["calibration"]["corpus"] == "0.5 c.txt + 0.5 x.txt"
    )
