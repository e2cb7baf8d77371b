"""A study runs through its notebooks to a report, survives kill -9, and never repeats what is recorded."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from written import write, write_all

import claw
from claw import records
from claw.errors import InputError
from claw.specs import study as studies
from claw.sweep import checks, plan, processes, run_jobs, status, study_run

ROOT = Path(__file__).parents[2]


def test_the_dense_model_comes_first_and_each_curve_is_one_job(study, tmp_path):
    made = plan.make(study, tmp_path)
    notebooks = [(job.notebook, job.title.split()[-1]) for job in made.jobs]
    assert notebooks == [("30_evaluate", "dense"), ("10_compress", "seed0"), ("10_compress", "seed0")]
    assert len(made.wanted) == 2 * len(study.experiments) == 14 and not made.done
    assert sorted(name for job in made.jobs for name in job.makes) == sorted(made.wanted)
    assert len({job.id for job in made.jobs}) == 3


def test_with_tasks_every_curve_is_evaluated_after_it_is_compressed(study, tmp_path):
    evaluation = study.evaluation.model_copy(update={"tasks": ("piqa",)})
    made = plan.make(study.model_copy(update={"evaluation": evaluation}), tmp_path)
    assert [job.notebook for job in made.jobs] == ["30_evaluate", *["10_compress", "30_evaluate"] * 2]
    assert len(made.wanted) == 21


def test_the_dense_model_is_trained_last_where_it_is_named(study, tmp_path):
    named = {
        "recovery": [{"tokens": [128, 256], "length": 64}],
        "recovery_of": [{"method": ["random", "dense"], "ratio": [0, 0.4]}],
    }
    evaluation = study.evaluation.model_copy(update={"tasks": ("piqa",)})
    given = study.model_dump(exclude_unset=True) | named | {"evaluation": evaluation}
    study = type(study).model_validate(given)
    made = plan.make(study, tmp_path)
    train, measure = made.jobs[-2:]
    assert (train.notebook, measure.notebook) == ("20_recover", "30_evaluate") and measure.needs == (train.id,)
    assert train.parameters["checkpoints"] == [study.models[0]] and len(train.makes) == 4 and len(measure.makes) == 2
    assert all(Path(name).parent == tmp_path / "checkpoints" for name in measure.parameters["checkpoints"])
    assert sorted(name for job in made.jobs for name in job.makes) == sorted(made.wanted)
    write_all(tmp_path, made)
    (tmp_path / "records" / train.makes[0]).unlink()
    assert [job.notebook for job in plan.make(study, tmp_path).jobs] == ["20_recover"]


def test_points_with_other_budgets_are_recovered_in_a_job_of_their_own(study, tmp_path):
    named = {
        "recovery": [{"tokens": [256, 128], "length": 64}],
        "recovery_of": [{"method": ["random", "dense"], "tokens": [128]}, {"method": "random", "ratio": 0.4}],
    }
    study = type(study).model_validate(study.model_dump(exclude_unset=True) | named)
    made = plan.make(study, tmp_path)
    trained = [job for job in made.jobs if job.notebook == "20_recover"]
    budgets = {
        tuple(job.parameters["tokens"]): len(job.parameters["checkpoints"]) for job in trained if "dense" not in job.title
    }
    others = sum(e.compression.method == "random" and e.recovery is None for e in study.experiments) - 1
    assert budgets == {(128, 256): 1, (128,): others} and trained[-1].parameters["tokens"] == [128]
    assert sorted(name for job in made.jobs for name in job.makes) == sorted(made.wanted)


def test_what_is_recorded_is_not_planned_again_and_what_failed_is(study, tmp_path):
    first = plan.make(study, tmp_path)
    write_all(tmp_path, first)
    assert plan.make(study, tmp_path).jobs == ()
    write(tmp_path, first, list(first.wanted)[-1], status="failed")
    (job,) = plan.make(study, tmp_path).jobs
    assert job.parameters["ratios"] == [0.6]
    write(tmp_path, first, list(first.wanted)[-1], status="nan")  # a measured NaN is a result
    assert plan.make(study, tmp_path).done == set(first.wanted)


def test_a_damaged_record_is_named_and_planned_again(study, tmp_path):
    first = plan.make(study, tmp_path)
    write_all(tmp_path, first)
    victim = tmp_path / "records" / next(iter(first.wanted))
    victim.write_text(victim.read_text()[:-20])
    again = plan.make(study, tmp_path)
    assert again.done == set(list(first.wanted)[1:]) and set(again.unusable) == {victim.name}
    (note,) = checks.check_plan(again)
    assert victim.name in note and "measured again" in note


def test_status_counts_from_disk_alone(study, tmp_path):
    made = plan.make(study, tmp_path)
    for name in list(made.wanted)[:5]:
        write(tmp_path, made, name)
    write(tmp_path, made, list(made.wanted)[5], status="failed", error="it broke")
    assert "5 done, 0 nan, 1 failed, 8 planned" in status.status_text(made)


def test_a_study_is_checked_before_any_work(study, tmp_path):
    for change, message in [
        ({"models": ("smollm3",)}, "smollm2-135m"),
        ({"evaluation": study.evaluation.model_copy(update={"heldout": "wikipedia-train"})}, "wikipedia-train"),
        ({"evaluation": study.evaluation.model_copy(update={"tasks": ("piqua",)})}, "piqa"),
        ({"device": "cuda:99"}, "cuda:99"),
    ]:
        with pytest.raises(InputError, match=message):
            study_run.run_study(study.model_copy(update=change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def sleeping_job(folder, monkeypatch, seconds):
    """A job whose process only sleeps, beside a child that sleeps too."""
    child = f"subprocess.Popen([sys.executable, '-c', 'import time; time.sleep({seconds})'])"
    command = [sys.executable, "-c", f"import subprocess, sys, time; {child}; time.sleep({seconds})"]
    monkeypatch.setattr(processes, "start", lambda request, log, **machine: processes.FreshJob(command))
    return plan.Job(notebook="10_compress", title="sleeper", parameters={}, makes=("x.compress.json",))


def test_a_job_over_its_time_limit_is_killed_with_its_children(tmp_path, monkeypatch):
    job = sleeping_job(tmp_path, monkeypatch, 61)
    with pytest.raises(run_jobs.Failure, match="time limit"):
        run_jobs.run_job(job, tmp_path, limit=1.5)
    deadline = time.monotonic() + 15
    while asleep("time.sleep(61)"):  # the kernel may take a moment to end who was killed
        assert time.monotonic() < deadline, "a process of the job is still there"
        time.sleep(0.1)


def test_a_job_that_ends_without_its_records_is_a_failure_with_its_log(tmp_path, monkeypatch):
    job = sleeping_job(tmp_path, monkeypatch, 0)
    with pytest.raises(run_jobs.Failure, match=r"logs/.*\.log"):
        run_jobs.run_job(job, tmp_path)


def asleep(words):
    sleepers = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if words in " ".join(process.info["cmdline"] or ()) and process.info["status"] != psutil.STATUS_ZOMBIE:
            sleepers.append(process)
    return sleepers


def claw_run(path, cwd):
    output = dict(text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "claw", "run", str(path)]
    return subprocess.Popen(command, cwd=cwd, env=environment, start_new_session=True, **output)


def test_a_killed_study_goes_on_where_it_was_and_ends_in_a_report(study_file, tmp_path):
    project = tmp_path / "project"
    for name in ("notebooks", "params"):
        (project / name).mkdir(parents=True)
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        (project / "notebooks" / notebook.name).write_bytes(notebook.read_bytes())
    folder = project / "runs" / "tiny"

    first = claw_run(study_file, project)
    deadline = time.monotonic() + 300
    while not list(folder.glob("records/*.json")):
        assert first.poll() is None and time.monotonic() < deadline, first.stdout.read()
        time.sleep(0.1)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    deadline = time.monotonic() + 15
    while asleep(str(folder)):
        assert time.monotonic() < deadline, "a process of the killed run is still there"
        time.sleep(0.2)
    before = {path: path.read_bytes() for path in folder.glob("records/*.json")}
    assert 0 < len(before) < 14

    second = claw_run(study_file, project)
    said = second.communicate(timeout=300)[0]
    assert second.returncode == 0, said
    assert all(path.read_bytes() == content for path, content in before.items())
    table = records.table(folder)
    assert len(table) == 7 and (table["status"] == "done").all()
    assert "With 10 % more loss" in said and "Open report.html" in said and (folder / "findings" / "findings.md").is_file()
    for suffix in ("pdf", "png", "svg", "csv"):
        assert list((folder / "figures").glob(f"*.{suffix}"))
    executed = {path.name[:7] for path in (folder / "notebooks").glob("*.ipynb")}
    assert {"10_comp", "50_laws"} <= executed <= {"10_comp", "30_eval", "50_laws"}  # a killed job leaves records, no notebook
    assert not list((folder / "notebooks").glob("*.part.ipynb")) and not list((folder / "checkpoints").glob("*"))
    assert "<svg" in (folder / "report.html").read_text()

    assert plan.make(studies.load_study(study_file), folder).jobs == ()

    third = claw_run(study_file, project)
    said = third.communicate(timeout=300)[0]
    assert third.returncode == 0 and len(said.strip().splitlines()) == 3, said
    assert "tiny is finished" in said and "nothing to run" in said and "activate" in said

    wish = {"keep_checkpoints_of": [{"method": "wanda-sp+ridge", "ratio": 0.2}]}
    study_file.write_text(yaml.safe_dump(yaml.safe_load(study_file.read_text()) | wish))
    fourth = claw_run(study_file, project)
    said = fourth.communicate(timeout=300)[0]
    assert fourth.returncode == 0 and "1 job to run" in said, said
    (kept,) = (folder / "checkpoints").iterdir()
    assert f'`claw.load("runs/tiny/checkpoints/{kept.name}")`' in said and claw.load(str(kept))
    assert all(path.read_bytes() == content for path, content in before.items())
