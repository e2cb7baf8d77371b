"""Faults that a study survives: full and read-only disks, changed data and code, clocks that jump, two runs at once, Ctrl-C."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from conftest import tiny_model
from test_sweep import ROOT, asleep, claw_run, sleeping_job
from written import write_all

from claw import files, provenance, records
from claw.errors import InputError
from claw.files import writing
from claw.stages import checkpoints
from claw.sweep import execute, locks, machine, origin, plan, processes, run_jobs, study_run


@pytest.fixture
def run(study, tmp_path):
    return study, tmp_path / "runs" / "tiny"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("where", ["fsync", "mkdtemp", "replace"])
def test_a_record_that_cannot_be_written_leaves_the_old_one_and_no_trace(tmp_path, monkeypatch, number, where):
    path = tmp_path / "records" / "a.json"
    records.write_record(path, {"status": "done", "result": {"x": 1}})
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(number, os.strerror(number))

    owner = {"fsync": writing.os, "replace": writing.os, "mkdtemp": writing.tempfile}[where]
    monkeypatch.setattr(owner, where, full)
    with pytest.raises(InputError, match=rf"a\.json could not be written.*{os.strerror(number)}.*safe"):
        records.write_record(path, {"status": "done", "result": {"x": 2}})
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_a_run_folder_that_cannot_be_made_is_said_before_work(run, monkeypatch):
    tiny, folder = run
    folder.parent.mkdir()
    folder.parent.joinpath("tiny").write_text("a file where the folder belongs")
    monkeypatch.setattr(study_run.checks, "check_plan", lambda plan, **_: [])
    with pytest.raises(InputError, match="cannot be written to"):
        study_run.run_study(tiny, folder)


def test_a_read_only_run_folder_is_said_before_work(run, monkeypatch):
    tiny, folder = run
    opened = Path.open

    def read_only(path, mode="r", *more, **named):
        if folder in path.parents and mode != "r" and mode != "rb":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return opened(path, mode, *more, **named)

    monkeypatch.setattr(Path, "open", read_only)
    monkeypatch.setattr(study_run.checks, "check_plan", lambda plan, **_: [])
    with pytest.raises(InputError, match=r"Read-only file system.*permissions"):
        study_run.run_study(tiny, folder)


def test_a_full_disk_under_a_notebook_stops_the_run_with_one_sentence(tmp_path, monkeypatch, capsys):
    request = tmp_path / "jobs" / "j.json"
    job = {"id": "j", "notebook": "50_laws", "output": str(tmp_path / "o.ipynb"), "parameters": {}, "makes": []}
    files.write_text(request, json.dumps(job))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(execute, "run_notebook", full)
    assert execute.execute_job(request) == execute.INPUT_ERROR
    said = capsys.readouterr().err
    assert "No space left" in said and said.count("\n") == 1
    assert not locks.marks(tmp_path) and not list((tmp_path / "running").iterdir())


def test_other_texts_or_weights_under_the_same_name_are_refused(run, heldout_text):
    tiny, folder = run
    text = Path(heldout_text)
    before = text.read_text()
    assert origin.check_origin(tiny, folder) == [] == origin.check_origin(tiny, folder)
    try:
        text.write_text(before + "\n\nOne more paragraph.")
        with pytest.raises(InputError, match=r"heldout\.txt changed since .*another name"):
            origin.check_origin(tiny, folder)
    finally:
        text.write_text(before)
    config = Path(tiny.models[0]) / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(InputError, match="tiny-llama changed"):
        origin.check_origin(tiny, folder)


def test_other_code_is_said_and_kept_apart(run, monkeypatch):
    tiny, folder = run
    origin.check_origin(tiny, folder)
    monkeypatch.setattr(provenance, "code_hash", lambda: "newer")
    (sentence,) = origin.check_origin(tiny, folder)
    assert "is newer" in sentence and "`code`" in sentence
    assert origin.check_origin(tiny, folder) == []  # said once


def test_a_clock_that_jumps_ends_no_job_and_saves_none(tmp_path, monkeypatch):
    jumps = iter(range(10**9, -(10**9), -3600))
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    job = sleeping_job(tmp_path, monkeypatch, 1)
    with pytest.raises(run_jobs.Failure, match="without a word"):  # its own end, not the limit
        run_jobs.run_job(job, tmp_path, limit=60)
    job = sleeping_job(tmp_path, monkeypatch, 62)
    with pytest.raises(run_jobs.Failure, match="time limit"):
        run_jobs.run_job(job, tmp_path, limit=1)


def test_a_second_run_of_a_study_waits_for_the_first(tmp_path):
    said, order = [], []
    entered, leave = threading.Event(), threading.Event()

    def first():
        with locks.whole_run(tmp_path, said.append):
            entered.set()
            leave.wait()
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait()
    threading.Timer(0.5, leave.set).start()
    with locks.whole_run(tmp_path, said.append):
        order.append("second")
    thread.join()
    assert order == ["first", "second"] and f"process {os.getpid()}" in said[0]


def test_a_lock_ends_with_its_process(tmp_path):
    mark = f"locks.mark(Path({str(tmp_path)!r}), 'j', {{'makes': []}})"
    code = "import time; from pathlib import Path; from claw.sweep import locks"
    code += f"\nwith {mark}: print(1, flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)})
    process.stdout.readline()
    assert locks.marks(tmp_path)["j"]["process"] == process.pid
    with pytest.raises(InputError, match="run by another process"), locks.mark(tmp_path, "j", {}, patience=0.3):
        pass
    process.kill()
    process.wait()
    assert (tmp_path / "running" / "j.json").exists() and not locks.marks(tmp_path)  # stale, and known to be
    with locks.mark(tmp_path, "j", {"makes": ["x"]}, patience=0):
        assert locks.marks(tmp_path)["j"]["makes"] == ["x"]
    assert not locks.marks(tmp_path)


def test_a_lock_that_was_deleted_while_waited_for_is_taken_anew(tmp_path):
    inside, most = [], []

    def enter():
        with locks.mark(tmp_path, "j", {}):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.25)
            inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
        time.sleep(0.03)
    for thread in threads:
        thread.join()
    assert most == [1] * 4


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with locks.whole_run(tmp_path, print):
        pass


def test_who_is_timed_is_alone_and_the_others_share(tmp_path):
    inside, most, alone = set(), [], []

    def enter(name, single):
        with locks.room(tmp_path, alone=single):
            inside.add(name)
            (alone if single else most).append(len(inside))
            time.sleep(0.3)
            inside.discard(name)

    threads = [threading.Thread(target=enter, args=(n, n in (2, 3))) for n in range(6)]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    for thread in threads:
        thread.join()
    assert alone == [1, 1] and max(most) >= 2


def test_what_needs_a_failed_job_is_left_out_and_the_rest_is_run(study, tmp_path, monkeypatch):
    evaluation = study.evaluation.model_copy(update={"tasks": ("piqa",)})
    made = plan.make(study.model_copy(update={"evaluation": evaluation}), tmp_path)
    ran = []

    def run_job(job, folder, **_):
        ran.append(job.notebook)
        if job.title.endswith("random seed0"):
            raise run_jobs.Failure("broke")

    monkeypatch.setattr(run_jobs, "run_job", run_job)
    failures = run_jobs.run_in_turn(made)
    assert ran == ["30_evaluate", "10_compress", "10_compress", "30_evaluate"]
    assert len(failures) == 2 and "not run" in failures[1]


def test_laws_that_cannot_be_fitted_are_a_failure_like_others_and_the_table_stays(run, monkeypatch, capsys):
    tiny, folder = run
    made = plan.make(tiny, folder)
    write_all(folder, made)

    def run_job(job, folder, **_):
        assert job.notebook == plan.LAWS
        raise run_jobs.Failure("laws: 50_laws failed: LinAlgError: Singular matrix Log: x.log")

    monkeypatch.setattr(run_jobs, "run_job", run_job)
    assert study_run.run_study(tiny, folder) == 1
    said = capsys.readouterr().out
    assert said.count("failed: laws: 50_laws failed: LinAlgError: Singular matrix Log: x.log\n") == 1 and "Total time" in said
    assert len(records.table(folder / "table.csv")) == 7 and not (folder / "report.html").exists()


def test_a_checkpoint_goes_after_its_last_job_and_leftovers_at_once(study, tokenizer, tmp_path):
    evaluation = study.evaluation.model_copy(update={"tasks": ("piqa",)})
    made = plan.make(study.model_copy(update={"evaluation": evaluation}), tmp_path)
    _, compress, evaluate, *_ = made.jobs
    experiments = {experiment.id: experiment for experiment in study.experiments}
    gone, touched, *_ = compress.checkpoints
    other = next(e for e in experiments if e not in {name for job in made.jobs for name in job.checkpoints})
    small = tiny_model("llama")
    for name in (gone, touched, other):
        checkpoints.save(small, tokenizer, tmp_path / "checkpoints" / name, experiment=experiments[name])
    checkpoints.save(small, tokenizer, tmp_path / "checkpoints" / "my-own", experiment=experiments[gone])
    (tmp_path / "checkpoints" / touched / "notes.txt").write_text("mine")
    unneeded = study_run.Unneeded(made)

    def there():
        return {path.name for path in (tmp_path / "checkpoints").iterdir()}

    assert there() == {gone, touched, "my-own"} and compress.checkpoints == evaluate.checkpoints
    unneeded.drop(compress)
    assert there() == {gone, touched, "my-own"}
    unneeded.drop(evaluate)
    assert there() == {touched, "my-own"}  # nothing that holds more than claw wrote, or that claw cannot prove to be of the run


def test_a_notebook_killed_alone_or_with_its_server_is_a_failure_and_the_next_one_runs(tmp_path, monkeypatch):
    project = tmp_path / "project"
    (project / "notebooks").mkdir(parents=True)
    (project / "params").mkdir()
    cell = {
        "cell_type": "code",
        "metadata": {"tags": ["parameters"]},
        "source": "seconds: int = 0",
        "outputs": [],
        "execution_count": None,
    }
    cells = [cell, cell | {"metadata": {}, "source": "import time\ntime.sleep(seconds)\nprint(seconds)"}]
    kernel = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
    }
    book = {"nbformat": 4, "nbformat_minor": 5, "metadata": kernel, "cells": [c | {"id": f"c{i}"} for i, c in enumerate(cells)]}
    for name in ("10_compress", "50_laws"):
        (project / "notebooks" / f"{name}.ipynb").write_text(json.dumps(book))
    monkeypatch.chdir(project)
    monkeypatch.setattr(processes, "MODULES", ("papermill",))
    monkeypatch.setenv("CLAW_CACHE", str(tmp_path / "cache"))
    folder = project / "runs" / "x"

    def tree():
        """The job's process, its kernel and its server, when all are there."""
        marks = locks.marks(folder)
        if not marks:
            return None
        job = psutil.Process(next(iter(marks.values()))["process"])
        return [job.parent(), job, *job.children()] if job.children() else None

    for victim in ("papermill", "kernel", "server") if sys.platform == "linux" else ():
        victims = []

        def kill(victim=victim, victims=victims):
            if not victims and (there := tree()):
                victims += there
                time.sleep(0.5)
                victims[("server", "papermill", "kernel").index(victim)].kill()

        with pytest.raises(run_jobs.Failure, match="failed"):
            run_jobs.run_job(plan.Job(notebook="50_laws", title=victim, parameters={"seconds": 600}), folder, waiting=kill)
        assert len(victims) == 3
        assert not psutil.wait_procs(victims[1:], timeout=5)[1], victim
        assert not locks.marks(folder)
    run_jobs.run_job(plan.Job(notebook="50_laws", title="last", parameters={"seconds": 0}), folder)
    (output,) = (folder / "notebooks").glob("50_laws-last*.ipynb")
    assert '"0\\n"' in output.read_text()
    processes._fork_server.cache_clear()


@pytest.mark.skipif(sys.platform != "linux", reason="jobs are forked on Linux only")
@pytest.mark.parametrize("importing", [False, True])
def test_a_fork_server_ends_with_who_started_it_even_before_and_while_it_imports(tmp_path, importing):
    name = f"slow_{tmp_path.name}_{os.getpid()}"
    (tmp_path / f"{name}.py").write_text("import pathlib, time\npathlib.Path('importing').touch()\ntime.sleep(63)")
    code = "import os, time\nfrom pathlib import Path\nfrom claw.sweep import processes\n"
    code += f"processes.MODULES = ({name!r},)\nserver = processes.ForkServer(os.environ.items(), '.')\n"
    code += "server.start(Path('request'), open('log', 'w'))\n"
    code += f"while {importing} and not os.path.exists('importing'): time.sleep(0.05)\nos.kill(os.getpid(), 9)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    starter = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment)
    assert starter.wait(60) == -signal.SIGKILL and (importing <= (tmp_path / "importing").exists())
    deadline = time.monotonic() + 15
    while asleep(name):
        assert time.monotonic() < deadline, "the server is still there"
        time.sleep(0.05)
    assert not (tmp_path / "log").read_text()


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_stops_cleanly_and_twice_too(study_file, tmp_path, times):
    project = tmp_path / "project"
    (project / "params").mkdir(parents=True)
    (project / "notebooks").symlink_to(ROOT / "notebooks")
    folder = project / "runs" / "tiny"
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background inherit that it is ignored
    process = claw_run(study_file, project)
    deadline = time.monotonic() + 300
    while not locks.marks(folder):
        assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
        time.sleep(0.1)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "Traceback" not in said and said.count("continues from there") == 1
    deadline = time.monotonic() + 15
    while asleep(str(folder)) or locks.marks(folder):
        assert time.monotonic() < deadline, "something of the stopped run is still there"
        time.sleep(0.2)


def test_jobs_beside_each_other_share_the_cores_and_do_not_spin(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    beside = processes.environment(3, "1", alone=False)
    assert beside["OMP_WAIT_POLICY"] == "PASSIVE" and beside["OMP_NUM_THREADS"] == "3" and beside["CUDA_VISIBLE_DEVICES"] == "1"
    alone = processes.environment()  # as in a run of one job after the other
    assert "OMP_WAIT_POLICY" not in alone and "OMP_NUM_THREADS" not in alone
    timed = processes.environment(4, alone=True)  # what is timed has threads that may spin
    assert "OMP_WAIT_POLICY" not in timed and timed["OMP_NUM_THREADS"] == "4"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert processes.environment(alone=False)["OMP_WAIT_POLICY"] == "ACTIVE"


def test_more_than_a_machine_offers_is_refused(study):
    asked = study.resources.model_copy(update={"memory": 1e5})
    with pytest.raises(InputError, match=r"ask for memory: 100000 .*this machine offers memory: .*Ask for less"):
        machine.check_resources(asked, [machine.offer(1, asked.asked)], "this machine")
    machine.check_resources(study.resources, [{}], "this machine")
