"""Off a terminal: whole lines and nothing that overwrites them, whatever loads, converts, saves, scores or runs."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import byte_tokenizer, tiny_model
from gguf_files import write_gguf

from claw.sweep import run_jobs
from claw.sweep.plan import Job

EVERYTHING = """
import sys
import claw
from claw.progress import of_transformers, tqdm

gguf, folder, train, heldout, out = sys.argv[1:]
for name in (gguf, folder):
    model, tokenizer = claw.load(name)
small, report = claw.compress(model, "magnitude", 0.3)
claw.save(small, tokenizer, out, report, base_model=folder)
blocks = claw.blocks(tokenizer, heldout, length=64, count=4, purpose="heldout")
print(claw.cross_entropy(small, blocks))
text = claw.blocks(tokenizer, train, length=64, count=4, purpose="recovery")
print(claw.recover(small, text, tokens=256, recipe="lora", heldout=blocks)[1])
for _ in tqdm(range(3), disable=False, mininterval=0):
    pass
with of_transformers():
    from transformers.utils import logging

    for _ in logging.tqdm(range(3), disable=False, delay=0):
        pass
"""


def test_loading_converting_saving_scoring_and_recovering(tmp_path, own_cache, folder_model, train_text, heldout_text):
    path = write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"), byte_tokenizer())
    command = [sys.executable, "-c", EVERYTHING, str(path), folder_model, train_text, heldout_text, str(tmp_path / "out")]
    with (tmp_path / "stdout").open("wb") as out, (tmp_path / "stderr").open("wb") as err:
        done = subprocess.run(command, stdout=out, stderr=err)
    said = (tmp_path / "stdout").read_bytes() + (tmp_path / "stderr").read_bytes()
    assert done.returncode == 0, said.decode()
    assert b"\r" not in said and b"it/s" not in said and b"not sharded" not in said, said.decode()


@pytest.fixture
def three_jobs(tmp_path):
    jobs = tuple(Job(notebook="10_compress", title=f"job {n}", parameters={}, makes=(f"{n}.json",)) for n in range(3))
    plan = SimpleNamespace(folder=tmp_path, done=frozenset(), wanted=dict.fromkeys(f"{n}.json" for n in range(3)), jobs=jobs)
    plan.study = SimpleNamespace(name="tiny", time_limit=None)
    (tmp_path / "records").mkdir()
    return plan


def finished(plan, monkeypatch, failing=()):
    def attempt(job, folder, before, **options):
        if job.title in failing:
            return run_jobs.Outcome("failed", f"{job.title}: broke.")
        (folder / "records" / job.makes[0]).touch()
        return run_jobs.Outcome("done")

    monkeypatch.setattr(run_jobs, "attempt", attempt)
    return run_jobs.run_in_turn(plan)


def test_a_line_for_each_job_that_ended(three_jobs, monkeypatch, capsys):
    assert finished(three_jobs, monkeypatch, failing=("job 1",)) == ["job 1: broke."]
    out, err = capsys.readouterr()
    assert err == "" and "\r" not in out
    assert out.splitlines() == [
        "1 of 3 jobs, 1 of 3 records, 0 s: 10_compress job 0",
        "job 1: broke.",
        "3 of 3 jobs, 2 of 3 records, 0 s: 10_compress job 2",
    ]


def test_experiments_an_hour_are_said_of_those_of_which_every_record_is_there(three_jobs, monkeypatch, capsys):
    three_jobs.wanted |= {"0.loss.json": None}  # of the first experiment, which no job of this run makes
    monkeypatch.setattr(run_jobs, "SHORT", 0.0)
    clock = iter([0.0, *[7200.0] * 100])
    monkeypatch.setattr(run_jobs.time, "monotonic", lambda: next(clock))
    finished(three_jobs, monkeypatch)
    assert capsys.readouterr().out.splitlines() == [
        "1 of 3 jobs, 1 of 4 records, 7,200 s: 10_compress job 0",
        "2 of 3 jobs, 2 of 4 records, 7,200 s, 0.5 experiments an hour: 10_compress job 1",
        "3 of 3 jobs, 3 of 4 records, 7,200 s, 1 experiment an hour: 10_compress job 2",
        "2 experiments finished, 1 experiment an hour.",
    ]


def test_on_a_terminal_the_bar_tells(three_jobs, monkeypatch, capsys):
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    finished(three_jobs, monkeypatch)
    out, err = capsys.readouterr()
    assert " of 3 jobs" not in out and "3/3" in err
