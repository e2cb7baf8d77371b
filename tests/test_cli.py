"""The command line: what it prints, what it refuses, and with which exit status."""

import re

import pandas as pd
import pytest
import yaml

from claw.cli import main
from claw.errors import InputError


@pytest.fixture
def study(tmp_path, folder_model, train_text, heldout_text):
    content = {"name": "tiny", "models": [folder_model], "methods": ["magnitude"], "ratios": [0, 0.5]}
    content["evaluation"] = {"heldout": heldout_text, "tokens": 512, "context": 64}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_models_lists_known_names(capsys):
    assert main(["models"]) == 0
    said = capsys.readouterr().out
    assert "smollm2-135m" in said and "pinned archives" in said


def test_models_says_what_is_on_this_machine_and_how_large(own_cache, tmp_path, monkeypatch, capsys):
    from claw.models import sources

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    kept = {"smollm2-135m": 269_000_000, "qwen2.5-0.5b": 988_000_000}
    folder = sources.folder_of_known(sources.models()["smollm2-135m"])
    blobs = tmp_path / "hub" / "models--Qwen--Qwen2.5-0.5B" / "blobs"
    snapshot = blobs.parent / "snapshots" / "0123" / "model.safetensors"
    for file, size in ((folder / "model.safetensors", 269_000_000), (blobs / "a", 988_000_000), (snapshot, 0)):
        file.parent.mkdir(parents=True)
        with file.open("wb") as sparse:
            sparse.truncate(size)
    assert main(["models"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    for name in sources.models():
        assert lines[name].endswith(f"here, {kept[name] / 1e6:,.0f} MB" if name in kept else "not here")


def test_a_dry_run_shows_the_plan_and_does_nothing(study, capsys, tmp_path):
    assert main(["run", str(study), "--dry-run"]) == 0
    assert "2 experiments in 1 curve, 4 records, 0 done; 2 jobs" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_status_before_a_run_says_planned(study, capsys):
    assert main(["status", str(study)]) == 0
    assert "4 planned" in capsys.readouterr().out


def test_the_command_line_table_is_what_python_gives(study, capsys, tmp_path):
    from claw import records
    from claw.models import load
    from claw.specs.notebooks import CompressParameters
    from claw.specs.study import load_study
    from claw.stages import compress

    loaded = load_study(study)
    measured = {"heldout": loaded.evaluation.heldout, "heldout_tokens": 512, "context": 64}
    run = str(tmp_path / loaded.folder)
    asked = CompressParameters(model=loaded.models[0], method="magnitude", ratios=(0.0, 0.5), run=run, **measured)
    model, tokenizer = load.load(asked.model)
    compress.compress_curve(asked, model, tokenizer)
    assert main(["table", str(study), "--out", "t.csv"]) == 0
    assert "2 experiments" in capsys.readouterr().out
    text = {"code": str, "experiment": str}  # a hash may have no letters
    pd.testing.assert_frame_equal(pd.read_csv("t.csv", dtype=text), records.table(tmp_path / "t.csv"))
    assert list(pd.read_csv("t.csv")["ratio"]) == [0, 0.5]
    (tmp_path / "mine.csv").write_text("mine")
    assert main(["table", str(study), "--out", "mine.csv"]) == 2 and (tmp_path / "mine.csv").read_text() == "mine"
    assert main(["table", str(study), "--out", "t.csv"]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nowhere.yaml"], "nowhere.yaml"),
        (["fetch", "smollm2"], "smollm2-135m"),
        (["status", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_wrong_input_is_one_paragraph_and_status_2(arguments, words, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert words in said and said.startswith("claw: ") and "Traceback" not in said and said.count("\n") == 1


def test_a_table_must_be_csv_and_needs_records(study, capsys):
    assert main(["table", str(study), "--out", "t.xlsx"]) == 2
    assert ".csv" in capsys.readouterr().err
    assert main(["table", str(study), "--out", "t.csv"]) == 2
    assert "no records" in capsys.readouterr().err


def test_interrupting_says_how_to_go_on(study, capsys, monkeypatch):
    monkeypatch.setattr("claw.specs.study.load_study", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["run", str(study)]) == 130
    assert "continues from there" in capsys.readouterr().err


def test_no_command_shows_help_and_there_is_a_version(capsys):
    assert main([]) == 0
    assert "claw run params/quickstart.yaml" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and re.fullmatch(r"claw \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_a_study_of_the_project_may_be_named_without_its_folder(study, tmp_path, capsys, monkeypatch):
    (tmp_path / "params").mkdir()
    (tmp_path / "notebooks").mkdir()
    study.rename(tmp_path / "params" / "tiny.yaml")
    for place in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(place)
        for name in ("tiny", "params/tiny.yaml"):
            assert main(["run", name, "--dry-run"]) == 0
            assert "2 experiments in 1 curve" in capsys.readouterr().out
    assert main(["run", "tny", "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert "no file tny" in said and "did you mean 'tiny'" in said and said.count("\n") == 1


def test_no_workers_are_refused_with_what_to_say(study, capsys):
    assert main(["run", str(study), "--workers", "0"]) == 2
    assert "Give 1 to 1024, or leave it out" in capsys.readouterr().err


def test_fetch_without_names_lists_them(capsys):
    assert main(["fetch"]) == 0
    assert "wikipedia-heldout" in capsys.readouterr().out


def test_input_errors_are_value_errors():
    assert issubclass(InputError, ValueError)
