"""Run jobs, each in its own process group, with a log and a progress bar from disk; one after the other here.

The engine holds nothing that the disk does not: a job is done when its records are there, whoever wrote them.
"""

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Literal, NamedTuple

from claw import files, records
from claw.errors import InputError
from claw.progress import tqdm
from claw.project import cache
from claw.sweep import locks, warm
from claw.sweep.execute import INPUT_ERROR
from claw.sweep.plan import Job, Plan


class Failure(Exception):
    """A job ended without its records; the message says why and where its log is."""


class Outcome(NamedTuple):
    """How a job ended; `skipped` is one whose needs were not met."""

    kind: Literal["done", "failed", "skipped"]
    words: str = ""


class Progress:
    """A bar of the records that are there, counted for the jobs that ended and those that run."""

    def __init__(self, plan: Plan):
        self.plan, self.done = plan, set(plan.done)
        self.bar = tqdm(total=len(plan.wanted), initial=len(plan.done), unit=" records", desc=plan.study.name, disable=None)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()

    def show(self, jobs: Iterable[Job], words: str = "") -> None:
        """Count the records of these jobs and show it."""
        folder = self.plan.folder / "records"
        self.done.update(name for job in jobs for name in job.makes if name not in self.done and (folder / name).exists())
        self.bar.n = len(self.done)
        if words:
            self.bar.set_postfix_str(words, refresh=False)
        self.bar.refresh()

    def say(self, words: str) -> None:
        """Write a line without disturbing the bar."""
        tqdm.write(words)


def run_in_turn(plan: Plan, after: Callable[[Job], None] = lambda job: None) -> list[str]:
    """Run all jobs one after the other; failures are collected and returned as sentences, and do not stop the others.

    What needs a failed job is left out.
    """
    failures: list[str] = []
    ended: dict[str, Outcome] = {}
    with Progress(plan) as progress:
        for job in plan.jobs:
            words = f"{job.notebook} {job.title}"
            progress.show((), words)
            outcome = attempt(
                job, plan.folder, [ended[need] for need in job.needs if need in ended],
                limit=plan.study.time_limit, waiting=functools.partial(progress.show, (job,), words),
            )  # fmt: skip
            ended[job.id] = outcome
            settle(outcome, job, progress, failures, after)
    return failures


def settle(outcome: Outcome, job: Job, progress: Progress, failures: list[str], after: Callable[[Job], None]) -> None:
    """Take note of how a job ended, and say so if it failed."""
    progress.show((job,))
    if outcome.kind == "done":
        after(job)
    else:
        failures.append(outcome.words)
        progress.say(outcome.words)


def attempt(job: Job, folder: Path, before: Iterable[Outcome] = (), **how) -> Outcome:
    """Run one job (`how` as for `run_job`) unless one that it needs was not done."""
    if any(outcome.kind != "done" for outcome in before):
        return Outcome("skipped", f"{job.title}: {job.notebook} was not run, because a job before it failed.")
    try:
        run_job(job, folder, **how)
    except (Failure, InputError) as failure:  # a point that cannot be reached says nothing about the others
        return Outcome("failed", str(failure))
    return Outcome("done")


def run_job(
    job: Job, folder: Path, *, waiting: Callable[[], None] = lambda: None, limit: float | None = None, **machine
) -> None:
    """Run one job to its end and check that its records are there; raises Failure or InputError.

    `limit` is the wall time in seconds after which the job's whole process group is killed; `waiting` is called while it runs.
    `machine` is passed on to `environment`.
    """
    log = folder / "logs" / f"{job.id}.log"
    request = folder / "jobs" / f"{job.id}.json"
    description = {
        "id": job.id, "notebook": job.notebook, "title": job.title, "output": str(folder / "notebooks" / f"{job.id}.ipynb"),
        "parameters": job.parameters, "makes": job.makes,
    }  # fmt: skip
    files.write_text(request, json.dumps(description, indent=1))
    with locks.room(cache() / "machines", alone=job.alone), _open(log) as out:
        process = start(request, out, alone=job.alone, **machine)
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
        log.parent.mkdir(parents=True, exist_ok=True)
        return log.open("w")
    except OSError as error:
        raise InputError(f"The log {log} cannot be written: {error}. Free disk space or correct the permissions.") from error


def environment(threads: int | None = None, gpu: str | None = None, *, alone: bool = False) -> dict[str, str]:
    """Environment of a job that may use this many processor threads (all, if not said) and these GPUs.

    Threads that spin while they wait take the processor from the jobs beside them, so they are told to sleep; not those of a
    job that is `alone` on its machine, because a thread that sleeps wakes up late, and that would be timed.
    """
    own = dict(os.environ)
    if not alone:
        own.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if threads is not None:
        own.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)))
    if gpu is not None:
        own["CUDA_VISIBLE_DEVICES"] = gpu
    return own


@functools.lru_cache(maxsize=1)
def _server(environment: tuple[tuple[str, str], ...], folder: str) -> warm.Server:
    return warm.Server(dict(environment), folder)


def start(request: Path, log: IO, **machine) -> "warm.ForkedJob | Fresh":
    """Start the process of a job: a copy of a warm one, or a fresh one where copying a process is not safe (macOS).

    `machine` is passed on to `environment`.
    """
    own = environment(**machine)
    if sys.platform == "linux":
        return _server(tuple(sorted(own.items())), os.getcwd()).start(request, log)
    return Fresh(request, log, own)


class Fresh:
    """A job in a process of its own that imports everything itself."""

    def __init__(self, request: Path, log: IO, environment: dict[str, str]):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "claw.sweep.execute", str(request), str(os.getpid())],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, env=environment,
        )  # fmt: skip

    @property
    def status(self) -> int | None:
        return self._process.returncode

    def wait(self, seconds: float) -> int | None:
        """Exit status of the job, or None when it still runs after `seconds`."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """Kill what is left of the job's process group."""
        warm.kill_group(self._process.pid)
        self._process.wait()


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return (lines[-1] if lines else "it ended without a word (killed, or out of memory).").removeprefix("InputError: ")
