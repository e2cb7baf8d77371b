"""No stage tests a model on text that it was calibrated or recovered on, whatever the file is called."""

import gzip
import json
from pathlib import Path

import pytest
import yaml

from claw.errors import InputError
from claw.models import load
from claw.specs.notebooks import CompressParameters, EvaluateParameters, RecoverParameters
from claw.specs.study import load_study
from claw.stages import compress, evaluate, frames, recover
from claw.sweep.study_run import run_study
from claw.texts import corpora

REFUSED = "must not be tested on"


@pytest.fixture
def copy(train_text, tmp_path):
    """The training text under another name, packed."""
    path = tmp_path / "other.txt.gz"
    path.write_bytes(gzip.compress(Path(train_text).read_bytes(), mtime=0))
    return str(path)


@pytest.fixture
def asked(folder_model, train_text, heldout_text, tmp_path, own_cache):
    texts = dict(calibration=train_text, calibration_tokens=512, calibration_length=64, heldout=heldout_text)
    point = dict(model=folder_model, method="wanda-sp", ratios=(0.25,), run=str(tmp_path / "run"))
    return CompressParameters(**texts, **point, heldout_tokens=512, context=64, dtype="float32")


@pytest.mark.parametrize("method", ["wanda-sp", "magnitude"])
def test_compressing(asked, copy, method):
    compress.check_compress(asked)
    with pytest.raises(InputError, match=REFUSED):
        compress.check_compress(asked.model_copy(update={"heldout": copy, "method": method}))


def test_compressing_without_the_checks_before_it(asked, copy, monkeypatch):
    """As where a text is downloaded only when it is needed: the tokens tell."""
    monkeypatch.setattr(corpora, "is_here", lambda name: False)
    unseen = asked.model_copy(update={"heldout": copy})
    compress.check_compress(unseen)
    with pytest.raises(InputError, match=REFUSED):
        compress.compress_curve(unseen, *load.load(asked.model, dtype="float32"))


def test_recovering_and_evaluating(asked, copy, train_text, heldout_text):
    results = compress.compress_curve(asked, *load.load(asked.model, dtype="float32"))
    shared = {"checkpoints": tuple(frames.checkpoint_frame(results, asked.folder)["folder"]), "run": asked.run}
    evaluate.check_evaluate(EvaluateParameters(heldout=heldout_text, **shared))
    with pytest.raises(InputError, match=REFUSED):
        evaluate.check_evaluate(EvaluateParameters(heldout=copy, **shared))
    budget = dict(tokens=(64,), length=32, batch=1)
    recover.check_recover(RecoverParameters(corpus=train_text, heldout=heldout_text, **budget, **shared))
    for corpus in (train_text, "wikipedia-train"):  # what it is recovered on, and what it was calibrated on before
        with pytest.raises(InputError, match=REFUSED):
            recover.check_recover(RecoverParameters(corpus=corpus, heldout=copy, **budget, **shared))


@pytest.mark.parametrize("methods", [["wanda-sp"], ["magnitude"]])
@pytest.mark.parametrize("text", ["calibration", "recovery"])
def test_a_study(study_file, copy, heldout_text, tmp_path, methods, text):
    content = yaml.safe_load(study_file.read_text()) | {"methods": methods}
    if text == "calibration":
        content["calibration"]["corpus"] = copy
        content["evaluation"]["heldout"] = copy.replace("other.txt.gz", "again.jsonl")
        rows = gzip.decompress(Path(copy).read_bytes()).decode().split("\n\n")
        Path(content["evaluation"]["heldout"]).write_text("\n".join(json.dumps({"text": row}) for row in rows))
    else:
        content["recovery"] = [{"corpus": copy, "tokens": [640], "length": 64, "batch": 1}]
        content["evaluation"]["heldout"] = yaml.safe_load(study_file.read_text())["calibration"]["corpus"]
        content["calibration"]["corpus"] = heldout_text
    study_file.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=REFUSED):
        run_study(load_study(study_file), tmp_path / "run")
    assert not (tmp_path / "run" / "records").exists()
