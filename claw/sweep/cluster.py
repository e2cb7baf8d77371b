"""Run jobs on Dask workers: on this machine (`--workers N`), or on a cluster that runs already (`--scheduler ADDRESS`).

Notable choices:
- Dask only says where and when. A worker executes a job as `claw.sweep.run_jobs` does everywhere: a process group of its own,
  a log, a time limit. What is done is what has a record, so scheduler and workers may die and be started again.
- Curves are finished one after the other, and few jobs are with the scheduler at a time (`WINDOW`), so that a study of any size takes
  the same memory. Speed is timed last, when all other jobs have ended, and alone on a machine, because each job asks for room on its
  machine (`claw.sweep.locks.room`).
- What jobs ask of a machine is compared with what workers offer before anything is submitted: Dask would wait for ever.
- Workers see on disk whether the `claw run` that wants a job still lives, and stop the job when it does not.
"""

import contextlib
import functools
import logging
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from claw.errors import InputError
from claw.sweep import locks, machine, run_jobs
from claw.sweep.plan import Job, Plan
from claw.sweep.run_jobs import Failure, Outcome

INSTALL = (
    "Workers need the package distributed, which is not installed: `pip install 'claw[dask]'`. Without --workers and "
    "--scheduler jobs run one after the other and need nothing more."
)
LOST = "The Dask scheduler was lost, and its jobs with it. Start it and run again; what was recorded is kept."
WINDOW = 256  # jobs that the scheduler knows at a time, or four for each worker where that is more
SETTINGS = {
    "distributed.worker.profile.enabled": False,
    # what Dask remembers of tasks that ended, which is much more than the tasks
    "distributed.admin.low-level-log-length": 100,
    "distributed.scheduler.dashboard.status.task-stream-length": 100,
    "distributed.scheduler.dashboard.tasks.task-stream-length": 1000,
}
ADDRESS = re.compile(r"(tcp|tls|ucx|ws|wss)://[^\s/]+:[0-9]+")


def run_on_workers(
    plan: Plan, after: Callable[[Job], None] = lambda job: None, *, workers: int = 0, scheduler: str | None = None
) -> list[str]:
    """Run all jobs on workers; failures are collected and returned as sentences, as `engine.run` does."""
    with _client(plan, workers, scheduler) as client, locks.hold(_wanted(plan.folder)):
        handed: dict[Any, Job] = {}
        try:
            return _run(plan, client, handed, after, workers)
        except (OSError, TimeoutError) as error:  # of the connection: jobs answer with an Outcome, files with an InputError
            raise InputError(LOST) from error
        finally:
            with contextlib.suppress(Exception):  # of a scheduler that is gone
                client.cancel(list(handed))


def _wanted(folder: Path) -> Path:
    """The lock that is held as long as somebody waits for the jobs of a run."""
    return folder / ".wanted"


@contextlib.contextmanager
def _client(plan: Plan, workers: int, scheduler: str | None) -> Iterator[Any]:
    """A client of the running cluster at the address `scheduler`, or of a new one with `workers` on this machine."""
    try:
        import dask
        import distributed
    except ImportError as error:
        raise InputError(INSTALL) from error
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what a user must know comes as one sentence
    asked = plan.study.resources.asked
    with contextlib.ExitStack() as stack:
        if scheduler is None:
            stack.enter_context(dask.config.set(SETTINGS | {"temporary-directory": str(plan.folder / ".dask")}))
            machine.check_resources(
                plan.study.resources, [machine.offer(workers, asked)], f"each of {workers} workers on this machine"
            )
            scheduler = stack.enter_context(
                distributed.LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",
                    memory_limit=0,
                    silence_logs=logging.CRITICAL,
                    resources=machine.offer(workers, asked),
                )
            )
        elif not ADDRESS.fullmatch(scheduler):
            raise InputError(f"--scheduler {scheduler} is no address. Write it as the scheduler prints it: tcp://HOST:PORT.")
        try:
            client = stack.enter_context(distributed.Client(scheduler, timeout=10, name="claw"))
        except (OSError, TimeoutError) as error:
            raise InputError(
                f"No Dask scheduler answers at {scheduler} ({error}). Start one with `dask scheduler --host 127.0.0.1`, and workers "
                "with `dask worker ADDRESS --nthreads 1`."
            ) from error
        yield client


def _run(plan: Plan, client, handed: dict[Any, Job], after: Callable[[Job], None], workers: int) -> list[str]:
    """Hand jobs to the scheduler as they get ready, and take them as they end. `handed`: future -> job of those with the scheduler."""
    from distributed import as_completed

    shares = _shares(plan, client)
    asked = {machine.NAMES[name]: amount for name, amount in plan.study.resources.asked.items()}
    suffix = uuid.uuid4().hex[:8]  # a scheduler that outlives a run must not answer with its results
    queue = _Queue(plan.jobs)
    failures: list[str] = []
    with run_jobs.Progress(plan) as progress:
        progress.say(f"{sum(shares.values())} workers. Dashboard: {client.dashboard_link}")
        ended = as_completed()
        looked, idle = time.monotonic(), False
        while queue.left or handed:
            for number, job, before in queue.ready(max(WINDOW, 4 * sum(shares.values())) - len(handed)):
                future = client.submit(
                    work, job, plan.folder, plan.study.time_limit, shares, workers, *map(tuple, before),
                    key=f"{job.id}-{suffix}", priority=-number, resources=asked or None,
                )  # fmt: skip
                handed[future] = job
                ended.add(future)
            for future in ended.next_batch(block=False):
                job = handed.pop(future)
                outcome = _outcome(future, job)
                queue.ended[job.id] = outcome
                run_jobs.settle(outcome, job, progress, failures, after)
            if time.monotonic() - looked > 1:
                running = locks.marks(plan.folder)
                progress.show((job for job in handed.values() if job.id in running), f"{len(running)} jobs running")
                if not running and not idle and not client.nthreads():
                    progress.say(
                        "No worker is left. Waiting for one: `dask worker ADDRESS --nthreads 1`, or stop and run again."
                    )
                    idle = True
                looked = time.monotonic()
            time.sleep(0.2)
    return failures


class _Queue:
    """Jobs not handed over yet, in their order; one is ready when those it needs have ended, one that is timed when all others have."""

    def __init__(self, jobs: Iterable[Job]):
        self.left = {job.id: (number, job) for number, job in enumerate(jobs)}
        self.others = {name for name, (_, job) in self.left.items() if not job.alone}
        self.known = set(self.left)
        self.ended: dict[str, Outcome] = {}

    def ready(self, most: int) -> list[tuple[int, Job, list[Outcome]]]:
        """Take at most `most` jobs that are ready: their place in the order, and how those they need ended."""
        found = []
        timing = self.others <= self.ended.keys()
        for number, job in self.left.values():
            if len(found) >= most:
                break
            needs = [name for name in job.needs if name in self.known]
            if (timing or not job.alone) and all(name in self.ended for name in needs):
                found.append((number, job, [self.ended[name] for name in needs]))
        for _, job, _ in found:
            del self.left[job.id]
        return found


def _shares(plan: Plan, client) -> Mapping[tuple, int]:
    """How many workers share the same cores of a machine; InputError when no worker can run a job."""
    found = client.scheduler_info(n_workers=-1)["workers"].values()
    if not found:
        with contextlib.suppress(TimeoutError):
            client.wait_for_workers(1, timeout=30)
        found = client.scheduler_info(n_workers=-1)["workers"].values()
    machine.check_resources(plan.study.resources, [one.get("resources", {}) for one in found], "no worker of the cluster")
    if any(one["nthreads"] != 1 for one in found):
        raise InputError("Each worker must run one job at a time. Start workers with `dask worker ADDRESS --nthreads 1`.")
    return Counter(client.run(machine.identity).values())


def work(job: Job, folder: Path, limit: float | None, shares: Mapping[tuple, int], workers: int, *before: Outcome) -> tuple:
    """Run a job on this worker; how it ended, as a small tuple. `workers` counts those of a cluster made for this run."""
    from distributed import get_worker

    share = 1 if job.alone else shares.get(machine.identity(), 1)
    gpu = machine.gpus_of(int(get_worker().name), workers) if workers else None
    stop = functools.partial(_stop_unwanted, job, folder)
    outcome = run_jobs.attempt(
        job, folder, [Outcome(*one) for one in before],
        limit=limit, waiting=stop, threads=max(1, len(machine.cores()) // share), gpu=gpu,
    )  # fmt: skip
    return tuple(outcome)


def _stop_unwanted(job: Job, folder: Path) -> None:
    if locks.is_free(_wanted(folder)):
        raise Failure(f"{job.title}: {job.notebook} was stopped, because the claw run that wanted it ended.")


def _outcome(future, job: Job) -> Outcome:
    """How a job ended; a job whose workers died under it again and again has failed."""
    if future.status == "finished":
        try:
            return Outcome(*future.result(timeout=30))
        except (OSError, TimeoutError) as error:
            raise InputError(LOST) from error
    if future.cancelled():
        raise InputError(LOST)
    return Outcome("failed", f"{job.title}: {job.notebook} failed on its worker: {future.exception()}")
