"""Run a plan's jobs one after the other, each in its own process group, with a log and a progress bar from disk."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from claw import records
from claw.errors import InputError
from claw.progress import tqdm
from claw.sweep.plan import Job, Plan

INPUT_ERROR = 2  # exit status of a job that was given something it cannot use


class Failure(Exception):
    """A job ended without its records; the message says why and where its log is."""


def run(plan: Plan, after: Callable[[Job], None] = lambda job: None) -> list[str]:
    """Run all jobs; failures are collected and returned as sentences, and do not stop the others.

    A job that could not use its input stops the run, because the others would fail alike.
    """
    failures: list[str] = []
    with tqdm(total=len(plan.wanted), initial=len(plan.done), unit=" records", desc=plan.study.name, disable=None) as bar:
        for job in plan.jobs:
            bar.set_postfix_str(f"{job.notebook} {job.title}", refresh=True)
            try:
                run_job(job, plan.folder, lambda: _show(bar, plan))
            except Failure as failure:
                failures.append(str(failure))
                tqdm.write(str(failure))
            _show(bar, plan)
            after(job)
    return failures


def _show(bar: tqdm, plan: Plan) -> None:
    found = {path.name for path in (plan.folder / "records").glob("*.json")}
    bar.n = sum(name in found for name in plan.wanted)
    bar.refresh()


def run_job(job: Job, folder: Path, waiting: Callable[[], None] = lambda: None, limit: float | None = None) -> None:
    """Run one job to its end and check that its records are there; raises Failure or InputError.

    `limit` is the wall time in seconds after which the job's whole process group is killed.
    """
    log = folder / "logs" / f"{job.id}.log"
    output = folder / "notebooks" / f"{job.id}.ipynb"
    description = {
        "notebook": job.notebook, "output": str(output), "parameters": job.parameters, "title": job.title, "parent": os.getpid(),
    }  # fmt: skip
    request = folder / "jobs" / f"{job.id}.json"
    records.write_text(request, json.dumps(description, indent=1))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "claw.sweep.execute", str(request)],
            stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        started = time.monotonic()
        try:
            while process.poll() is None:
                time.sleep(0.3)
                waiting()
                if limit and time.monotonic() - started > limit:
                    raise Failure(f"{job.title}: {job.notebook} was stopped after its time limit of {limit:.0f} s. Log: {log}")
        finally:
            _end_group(process)
    missing = [name for name in job.makes if records.read(folder / "records" / name) is None]
    if process.returncode == INPUT_ERROR:
        raise InputError(f"{job.title}: {_last_words(log)}")
    if process.returncode or missing:
        raise Failure(f"{job.title}: {job.notebook} failed: {_last_words(log)} Log: {log}")


def _end_group(process: subprocess.Popen) -> None:
    """Kill whatever is left of a job's process group, kernel included."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return (lines[-1] if lines else "it ended without a word (killed, or out of memory).").removeprefix("InputError: ")
