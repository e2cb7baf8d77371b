"""The sceptic's check finds an honest run honest and a doctored one doctored."""

import json
import sys

import pytest
import yaml
from scripts import script

from claw import records
from claw.models import load
from claw.specs.notebooks import CompressParameters, RecoverParameters
from claw.specs.study import parse_study
from claw.stages import checkpoints, compress, recover


@pytest.fixture(scope="module")
def recheck():
    return script("benchmarks/recheck.py")


@pytest.fixture
def run(folder_model, train_text, heldout_text, tmp_path, own_cache):
    """A run of one curve of a tiny model, one of its points recovered."""
    shared = dict(run=str(tmp_path / "run"), heldout=heldout_text, heldout_tokens=512, context=64, dtype="float32")
    calibration = dict(calibration=train_text, calibration_tokens=512, calibration_length=64)
    asked = CompressParameters(**shared, **calibration, model=folder_model, method="wanda-sp", ratios=(0, 0.25, 0.5), seed=3)
    model, tokenizer = load.load(folder_model, dtype="float32")
    compress.compress_curve(asked, model, tokenizer)
    place = checkpoints.checkpoint_folder(tmp_path / "run", asked.curve.experiments[-1])
    recover.recover_checkpoints(
        RecoverParameters(**shared, checkpoints=(str(place),), tokens=(256,), corpus=train_text, length=32, batch=2)
    )
    return tmp_path / "run"


def check(recheck, run, monkeypatch, capsys, *more):
    monkeypatch.setattr(sys, "argv", ["recheck.py", str(run), *more])
    monkeypatch.setenv("CLAW_CACHE", str(run.parent / "cache"))
    return recheck.main(), capsys.readouterr().out


def test_an_honest_run_comes_out_the_same_by_claw_and_by_hand(recheck, run, monkeypatch, capsys):
    code, said = check(recheck, run, monkeypatch, capsys, "--count", "9")
    assert code == 0, said
    assert "3 of 3 experiments" in said and "lora 256 tokens" in said and said.count("same text, same code") == 3
    gap = float(said.partition("by hand")[2].partition(" standard errors")[0].rpartition("(")[2])
    assert abs(gap) < 0.01
    assert said.count("with stock transformers in float32") == said.count("with stock transformers in bfloat16") == 1


def test_a_doctored_loss_is_found(recheck, run, monkeypatch, capsys):
    for path in (run / "records").glob("*.loss-*.json"):
        content = json.loads(path.read_text())
        content["result"]["mean"] -= 0.5
        records.write_record(path, {name: value for name, value in content.items() if name != "checksum"})
    code, said = check(recheck, run, monkeypatch, capsys, "--count", "1", "--unrecovered")
    assert code == 1 and "1 of 1 differ" in said


def test_the_same_seed_draws_the_same_experiments(recheck, run, monkeypatch, capsys):
    kept = {record["experiment"]: record for record in records.every(run) if record["stage"] == "loss"}
    monkeypatch.setattr(recheck, "remake", lambda measured, folder: kept[measured.experiment.id])
    monkeypatch.setattr(recheck, "by_hand", lambda *parts: None)
    first, again = (
        check(recheck, run, monkeypatch, capsys, "--count", "1", "--seed", "5")[1].splitlines()[:3] for _ in range(2)
    )
    assert first == again


def test_a_studys_table_is_checked_where_its_records_are_not(
    recheck, folder_model, train_text, heldout_text, tmp_path, own_cache, monkeypatch, capsys
):
    table = tmp_path / "before.csv"
    study = {
        "name": "rechecked",
        "models": [str(folder_model)],
        "methods": ["wanda-sp"],
        "ratios": [0.25, 0.5],
        "seeds": [3],
        "dtype": "float32",
        "calibration": {"corpus": train_text, "tokens": 512, "length": 64},
        "evaluation": {"heldout": heldout_text, "tokens": 512, "context": 64},
        "goes_on_from": str(table),
    }
    curve = {"method": "wanda-sp", "ratios": (0.25, 0.5), "seed": 3}
    shared = dict(run=str(tmp_path / "elsewhere"), heldout=heldout_text, heldout_tokens=512, context=64, dtype="float32")
    calibration = dict(calibration=train_text, calibration_tokens=512, calibration_length=64)
    model, tokenizer = load.load(folder_model, dtype="float32")
    compress.compress_curve(CompressParameters(**shared, **calibration, model=folder_model, **curve), model, tokenizer)
    rows = records.table(tmp_path / "elsewhere", parse_study(study, {}, "here").evaluation)
    rows.to_csv(table, index=False)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    code, said = check(recheck, tmp_path / "study.yaml", monkeypatch, capsys, "--count", "1")
    assert code == 0, said
    assert "1 of 2 experiments" in said and said.count("same text, same code") == 1

    rows["loss"] -= 0.5
    rows.to_csv(table, index=False)
    code, said = check(recheck, tmp_path / "study.yaml", monkeypatch, capsys, "--count", "1")
    assert code == 1 and "1 of 1 differ" in said


def test_a_model_that_is_not_there_is_said(recheck, run, monkeypatch, capsys):
    code, said = check(recheck, run, monkeypatch, capsys, "--model", "gpt-5")
    assert code == 1 and "no such experiment" in said
