"""Run jobs, each in its own process group, with a log and a progress bar from disk; one after the other here.

Nothing is held in memory that the disk does not hold: a job is done when its records are there, whoever wrote them.
"""

import contextlib
import functools
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from claw import files, records
from claw.errors import InputError
from claw.progress import tqdm
from claw.project import cache
from claw.sweep import locks, processes
from claw.sweep.execute import INPUT_ERROR
from claw.sweep.plan import Job, Plan
from claw.words import plural


class Failure(Exception):
    """A job ended without its records; the message says why and where its log is."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended; `skipped` is one whose needs were not met."""

    kind: Literal["done", "failed", "skipped"]
    words: str = ""


SHORT = 60.0  # seconds of a run after which it says how many experiments an hour it finishes


def _experiment(record: str) -> str:
    return record.partition(".")[0]


class Progress(contextlib.AbstractContextManager):
    """A bar of the records that are there, counted for the jobs that ended and those that run; and the failures so far.

    Off a terminal a line for each job that ended. Both say how many experiments are finished in an hour.
    """

    def __init__(self, plan: Plan, after: Callable[[Job], None]):
        self.failures: list[str] = []
        self._folder, self._after, self._done = plan.folder / "records", after, set(plan.done)
        self._jobs, self._wanted, self._ended, self._started = len(plan.jobs), len(plan.wanted), 0, time.monotonic()
        self._lacking = Counter(map(_experiment, plan.wanted.keys() - self._done))  # records that an experiment still waits for
        self._experiments = len(self._lacking)
        self._bar = tqdm(total=len(plan.wanted), initial=len(plan.done), unit=" records", desc=plan.study.name, disable=None)

    def __exit__(self, *_) -> None:
        self._bar.close()
        if pace := self.pace():
            print(f"{plural(self._experiments - len(self._lacking), 'experiment')} finished, {pace}.", flush=True)

    def pace(self) -> str:
        """Experiments finished in an hour of this run, in words; empty until one is finished and a minute has passed."""
        finished, passed = self._experiments - len(self._lacking), time.monotonic() - self._started
        if not finished or passed < SHORT:
            return ""
        rate = 3600 * finished / passed
        return f"{plural(round(rate), 'experiment')} an hour" if rate >= 1 else f"{rate:.2g} experiments an hour"

    def show(self, jobs: Iterable[Job], words: str = "") -> None:
        """Count the records of these jobs and show it."""
        names = {name for job in jobs for name in job.makes} - self._done
        there = {name for name in names if (self._folder / name).exists()}
        self._done |= there
        self._lacking -= Counter(map(_experiment, there))
        self._bar.n = len(self._done)
        if words:
            self._bar.set_postfix_str(", ".join(filter(None, (words, self.pace()))), refresh=False)
        self._bar.refresh()

    def settle(self, job: Job, outcome: Outcome) -> None:
        """Take note of how a job ended, and say so: in a file always, on a terminal, where the bar tells, if it failed."""
        self.show((job,))
        self._ended += 1
        if outcome.kind != "done":
            self.failures.append(outcome.words)
            tqdm.write(outcome.words)
        elif self._bar.disable or not sys.stdout.isatty():
            passed = ", ".join(filter(None, (f"{time.monotonic() - self._started:,.0f} s", self.pace())))
            counts = f"{self._ended:,} of {plural(self._jobs, 'job')}, {len(self._done):,} of {plural(self._wanted, 'record')}"
            print(f"{counts}, {passed}: {job.notebook} {job.title}", flush=True)
        if outcome.kind == "done":
            self._after(job)


def run_in_turn(plan: Plan, after: Callable[[Job], None] = lambda job: None) -> list[str]:
    """Run all jobs one after the other; failures are collected and returned as sentences, and do not stop the others.

    What needs a failed job is left out; `after` is called with each job that was done.
    """
    ended: dict[str, Outcome] = {}
    with Progress(plan, after) as progress:
        for job in plan.jobs:
            words = f"{job.notebook} {job.title}"
            progress.show((), words)
            before = [ended[need] for need in job.needs if need in ended]
            waiting = functools.partial(progress.show, (job,), words)
            ended[job.id] = attempt(job, plan.folder, before, limit=plan.study.time_limit, waiting=waiting)
            progress.settle(job, ended[job.id])
    return progress.failures


def attempt(job: Job, folder: Path, before: Iterable[Outcome] = (), **options) -> Outcome:
    """Run one job (`options` as for `run_job`) unless one that it needs was not done."""
    if any(outcome.kind != "done" for outcome in before):
        return Outcome("skipped", f"{job.title}: {job.notebook} was not run, because a job before it failed.")
    try:
        run_job(job, folder, **options)
    except (Failure, InputError) as failure:  # a point that cannot be reached says nothing about the others
        return Outcome("failed", str(failure))
    return Outcome("done")


def run_job(
    job: Job, folder: Path, *, waiting: Callable[[], None] = lambda: None, limit: float | None = None, **machine
) -> None:
    """Run one job to its end and check that its records are there; raises Failure or InputError.

    `limit` is the wall time in seconds after which the job's whole process group is killed; `waiting` is called while it runs.
    `machine` is passed on to `processes.environment`.
    """
    log, request = folder / "logs" / f"{job.id}.log", folder / "jobs" / f"{job.id}.json"
    output = str(folder / "notebooks" / f"{job.id}.ipynb")
    description = {"id": job.id, "notebook": job.notebook, "title": job.title, "output": output}
    files.write_text(request, json.dumps(description | {"parameters": job.parameters, "makes": job.makes}, indent=1))
    with locks.room(cache() / "machines", alone=job.alone), _open(log) as out:
        process = processes.start(request, out, **machine)
        started = time.monotonic()
        try:
            while process.wait(1.0 if limit is None else min(1.0, limit)) is None:
                waiting()
                if limit and time.monotonic() - started > limit:
                    raise Failure(f"{job.title}: {job.notebook} was stopped after its time limit of {limit:.0f} s. Log: {log}")
        finally:
            process.kill()
    missing = [name for name in job.makes if records.read_record(folder / "records" / name) is None]
    if process.status == INPUT_ERROR:
        raise InputError(f"{job.title}: {_last_words(log)}")
    if process.status or missing:
        raise Failure(f"{job.title}: {job.notebook} failed: {_last_words(log)} Log: {log}")


def _open(log: Path) -> IO[str]:
    try:
        files.refuse_link(log)
        log.parent.mkdir(parents=True, exist_ok=True)
        return log.open("w")
    except OSError as error:
        raise InputError(f"The log {log} cannot be written: {error}. Free disk space or correct the permissions.") from error


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return (lines[-1] if lines else "it ended without a word (killed, or out of memory).").removeprefix("InputError: ")
