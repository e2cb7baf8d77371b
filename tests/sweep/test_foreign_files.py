"""A run, its locks and its recoveries leave alone what they did not make, also behind links."""

import pytest
import torch
from conftest import tiny_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import claw
from claw import files
from claw.errors import InputError
from claw.recovery import run
from claw.stages import checkpoints
from claw.sweep import execute, locks, plan, study_run


@pytest.fixture
def planned(study, tmp_path):
    return plan.make(study, tmp_path / "runs" / "tiny")


def test_a_link_to_a_disk_with_other_models_loses_nothing(planned, tokenizer, tmp_path):
    disk = tmp_path / "disk"
    small, experiment = tiny_model("llama"), planned.study.experiments[1]
    for name in ("my-llama", experiment.id):
        claw.save(small, tokenizer, disk / name, experiment=experiment)
    small.save_pretrained(disk / "plain-llama")
    planned.folder.mkdir(parents=True)
    (planned.folder / "checkpoints").symlink_to(disk)
    before = {path: path.read_bytes() for path in disk.rglob("*") if path.is_file()}
    unneeded = study_run.Unneeded(planned)
    for job in planned.jobs:
        unneeded.drop(job)
    assert {path: path.read_bytes() for path in disk.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["table.csv", "laws.json", "report.html"])
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_stands_in_the_way_of_a_run_is_said_before_any_work(name, kind, planned, tmp_path):
    path = planned.folder / name
    path.parent.mkdir(parents=True)
    (tmp_path / "mine").write_text("mine")
    {"file": lambda: path.write_text("mine"), "folder": path.mkdir, "link": lambda: path.symlink_to(tmp_path / "mine")}[kind]()
    with pytest.raises(InputError, match=name):
        study_run.check_outputs(planned)
    with pytest.raises(InputError, match=name):
        study_run.rehearse(planned.study, planned.folder)
    assert (tmp_path / "mine").read_text() == "mine" and (kind != "file" or path.read_text() == "mine")


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.binary(max_size=30) | st.sampled_from([b"[]", b"{}", b'{"code": 1}', b"null"]))
def test_an_origin_of_others_is_not_written_over(content, study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "origin.json").write_bytes(content)
    for do in (study_run.rehearse, study_run.run_study):
        with pytest.raises(InputError, match=r"origin\.json is damaged or was not written by claw"):
            do(study, folder)
    assert (folder / "origin.json").read_bytes() == content


def test_a_page_that_somebody_changed_stops_the_next_run_and_deleting_it_lets_it_go_on(planned):
    for name in ("table.csv", "figures/loss.svg"):
        path = planned.folder / name
        files.write_own(path, "made")
        study_run.check_outputs(planned)
        path.write_text("made better")
        with pytest.raises(InputError, match="was changed since claw wrote it"):
            study_run.check_outputs(planned)
        path.unlink()
        study_run.check_outputs(planned)


def test_an_executed_notebook_that_somebody_went_on_with_is_kept(tmp_path, monkeypatch):
    output = tmp_path / "notebooks" / "50_laws.ipynb"
    output.parent.mkdir()
    output.write_text("my remarks")
    monkeypatch.setattr("papermill.execute_notebook", lambda *_, **__: pytest.fail("executed"))
    with pytest.raises(InputError, match=r"50_laws\.ipynb is there and was not written by claw"):
        execute.run_notebook("50_laws", output, {})
    assert output.read_text() == "my remarks"


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.binary(min_size=1, max_size=40).filter(lambda text: not text.startswith((b"process ", b'{"host"'))))
def test_a_lock_is_not_written_over_a_file_of_others(content, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "mine").write_bytes(content)
    (folder / ".lock").symlink_to(folder / "mine")
    with pytest.raises(InputError), locks.whole_run(folder, print):
        pass
    (folder / ".lock").unlink()
    (folder / ".lock").write_bytes(content)
    with pytest.raises(InputError), locks.whole_run(folder, print):
        pass
    assert (folder / "mine").read_bytes() == (folder / ".lock").read_bytes() == content


def test_a_recovery_writes_beside_the_states_of_others(tokenizer, train_text, tmp_path):
    mine = {name: f"{name} of mine".encode() for name in ("stable.safetensors", "decay.safetensors", "notes.txt")}
    for name, content in mine.items():
        (tmp_path / name).write_bytes(content)
    blocks = claw.blocks(tokenizer, train_text, length=32, count=8, purpose="recovery")
    run.recover(tiny_model("llama"), blocks, tokens=128, recipe="full", batch=2, folder=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == mine


def test_a_recovery_whose_place_is_taken_stops_before_it_trains(study, planned, tokenizer, monkeypatch):
    from claw.specs import notebooks
    from claw.stages import recover

    experiment = planned.study.experiments[1]
    small = tiny_model("llama")
    folder = checkpoints.checkpoint_folder(planned.folder, experiment)
    claw.save(small, tokenizer, folder, experiment=experiment)
    measured = {"heldout": study.evaluation.heldout, "heldout_tokens": 512, "context": 64, "run": str(planned.folder)}
    corpus = study.calibration.corpus
    asked = notebooks.RecoverParameters(checkpoints=(str(folder),), tokens=(640,), length=64, corpus=corpus, **measured)
    later = type(experiment)(
        compression=checkpoints.experiment_of(str(folder)).compression, recovery=asked.series.recoveries[0]
    )
    taken = checkpoints.checkpoint_folder(planned.folder, later)
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    monkeypatch.setattr(recover.load, "load", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(InputError, match="was not made by claw"):
        recover.recover_checkpoints(asked)
    assert [path.name for path in taken.iterdir()] == ["mine.txt"] and torch.is_grad_enabled()
