"""Run jobs on Dask workers: on this machine (`--workers N`), or on a cluster that runs already (`--scheduler ADDRESS`).

Notable choices:
- Dask only says where and when. A worker executes a job as `claw.sweep.run_jobs` does everywhere: a process group of its own,
  a log, a time limit. What is done is what has a record, so scheduler and workers may die and be started again.
- Curves are finished one after the other, and few jobs are with the scheduler at a time (`WINDOW`), so that a study of any size
  takes the same memory. Speed is timed last, when all other jobs have ended, and alone on a machine, because each job asks for
  room on its machine (`claw.sweep.locks.room`).
- What jobs ask of a machine is compared with what workers offer before anything is submitted: Dask would wait for ever.
- Workers see on disk whether the `claw run` that wants a job still lives, and stop the job when it does not.
- Whoever reaches a Dask scheduler can run code as the user who started it, and on a shared machine every user reaches a port of
  127.0.0.1. The cluster made here therefore speaks TLS with a certificate that lives as long as the run and in its memory only.
"""

import contextlib
import functools
import logging
import re
import ssl
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from claw.errors import InputError
from claw.progress import tqdm
from claw.sweep import locks, machine, run_jobs
from claw.sweep.plan import Job, Plan
from claw.sweep.run_jobs import Failure, Outcome, Progress
from claw.words import plural

INSTALL = (
    "Workers need the packages distributed and cryptography, which are not both installed: `pip install 'claw[dask]'`. Without "
    "--workers and --scheduler jobs run one after the other and need nothing more."
)
OPEN = (
    "This scheduler speaks plain tcp: everybody who can reach its port can run code as you. On a machine or network shared "
    "with others start it with TLS, as docs/many-jobs.md shows."
)
CERTIFICATES = (
    "needs certificates, and Dask's configuration names none that fit: set distributed.comm.tls as "
    "docs/many-jobs.md shows, the same for scheduler, workers and this machine."
)
LOST = "The Dask scheduler was lost, and its jobs with it. Start it and run again; what was recorded is kept."
WANTED = ".wanted"  # the lock in a run's folder that is held as long as somebody waits for its jobs
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
    """Run all jobs on workers; failures are collected and returned as sentences, as `run_jobs.run_in_turn` does."""
    with _client(plan, workers, scheduler) as client, locks.hold(plan.folder / WANTED), Progress(plan, after) as progress:
        submitted: dict[Any, Job] = {}
        try:
            _run(plan, client, submitted, progress, workers)
        except (OSError, TimeoutError) as error:  # of the connection: jobs answer with an Outcome, files with an InputError
            raise InputError(LOST) from error
        finally:
            with contextlib.suppress(Exception):  # of a scheduler that is gone
                client.cancel(list(submitted))
    return progress.failures


@contextlib.contextmanager
def _client(plan: Plan, workers: int, scheduler: str | None) -> Iterator[Any]:
    """A client of the running cluster at the address `scheduler`, or of a new one with `workers` on this machine."""
    try:
        import dask
        import distributed
    except ImportError as error:
        raise InputError(INSTALL) from error
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what a user must know comes as one sentence
    resources = plan.study.resources
    with contextlib.ExitStack() as stack:
        if scheduler is None:
            stack.enter_context(dask.config.set(SETTINGS | {"temporary-directory": str(plan.folder / ".dask")}))
            offer = machine.offer(workers, resources.asked)
            machine.check_resources(resources, [offer], f"each of {plural(workers, 'worker')} on this machine")
            security = temporary_security()
            options = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "silence_logs": logging.CRITICAL}
            options |= {"n_workers": workers, "threads_per_worker": 1, "memory_limit": 0, "resources": offer}
            cluster = stack.enter_context(distributed.LocalCluster(protocol="tls://", security=security, **options))
            scheduler = cluster.scheduler_address
        elif not ADDRESS.fullmatch(scheduler):
            raise InputError(f"--scheduler {scheduler} is no address. Write it as the scheduler prints it: tls://HOST:PORT.")
        else:
            security = distributed.Security()  # as Dask's configuration says
            if scheduler.startswith("tcp:"):
                tqdm.write(OPEN)
        try:
            client = stack.enter_context(distributed.Client(scheduler, timeout=10, name="claw", security=security))
        except (
            TypeError,
            RuntimeError,
            FileNotFoundError,
            ssl.SSLError,
        ) as error:  # how distributed says that it has no, or must have, certificates
            raise InputError(f"The scheduler at {scheduler} {CERTIFICATES}") from error
        except (OSError, TimeoutError) as error:
            raise InputError(
                f"No Dask scheduler answers at {scheduler} ({error}). Start one with `dask scheduler --host 127.0.0.1`, and "
                "workers with `dask worker ADDRESS --nthreads 1`."
            ) from error
        yield client


def temporary_security() -> Any:
    """Dask's security with a key and certificate made now: only who is given this object can talk to its cluster."""
    from distributed.security import Security

    try:
        return Security.temporary()
    except ImportError as error:  # of cryptography; without encryption nothing is started
        raise InputError(INSTALL) from error


def _run(plan: Plan, client: Any, submitted: dict[Any, Job], progress: Progress, workers: int) -> None:
    """Hand jobs to the scheduler as they get ready, and take them as they end; `submitted` holds those it has, by future."""
    from distributed import as_completed

    shares = _shares(plan, client)
    most = max(WINDOW, 4 * sum(shares.values()))
    asked = {machine.NAMES[name]: amount for name, amount in plan.study.resources.asked.items()}
    run = functools.partial(work, folder=plan.folder, limit=plan.study.time_limit, shares=shares, workers=workers)
    suffix = uuid.uuid4().hex[:8]  # a scheduler that outlives a run must not answer with its results
    queue = _Queue(plan.jobs)
    tqdm.write(f"{plural(sum(shares.values()), 'worker')}. Dashboard: {client.dashboard_link}")
    ended = as_completed()
    looked, idle = time.monotonic(), False
    while queue.left or submitted:
        for number, job, before in queue.ready(most - len(submitted)):
            options = {"key": f"{job.id}-{suffix}", "priority": -number, "resources": asked or None}
            future = client.submit(run, job, *before, **options)
            submitted[future] = job
            ended.add(future)
        for future in ended.next_batch(block=False):
            job = submitted.pop(future)
            if future.cancelled():
                raise InputError(LOST)
            if future.status == "finished":
                outcome = future.result(timeout=30)
            else:  # its workers died under it again and again
                outcome = Outcome("failed", f"{job.title}: {job.notebook} failed on its worker: {future.exception()}")
            queue.ended[job.id] = outcome
            progress.settle(job, outcome)
        if time.monotonic() - looked > 1:
            running = locks.marks(plan.folder)
            progress.show((job for job in submitted.values() if job.id in running), f"{len(running)} jobs running")
            if not running and not idle and not client.nthreads():
                tqdm.write("No worker is left. Waiting for one: `dask worker ADDRESS --nthreads 1`, or stop and run again.")
                idle = True
            looked = time.monotonic()
        time.sleep(0.2)


class _Queue:
    """Jobs not handed over yet, in order. A job is ready when those it needs have ended; a timed one, when all others have."""

    def __init__(self, jobs: Iterable[Job]):
        self.left = {job.id: (number, job) for number, job in enumerate(jobs)}
        self.others = {name for name, (_, job) in self.left.items() if not job.alone}
        self.known = set(self.left)
        self.ended: dict[str, Outcome] = {}

    def ready(self, most: int) -> list[tuple[int, Job, list[Outcome]]]:
        """Take at most `most` jobs that are ready: their place in the order, and how those they need ended."""
        taken: list[tuple[int, Job, list[Outcome]]] = []
        timing = self.others <= self.ended.keys()
        for number, job in self.left.values():
            if len(taken) >= most:
                break
            needs = [name for name in job.needs if name in self.known]
            if (timing or not job.alone) and all(name in self.ended for name in needs):
                taken.append((number, job, [self.ended[name] for name in needs]))
        for _, job, _ in taken:
            del self.left[job.id]
        return taken


def _shares(plan: Plan, client: Any) -> Mapping[tuple, int]:
    """How many workers share the same cores of a machine; InputError when no worker can run a job."""
    if not client.scheduler_info(n_workers=-1)["workers"]:
        with contextlib.suppress(TimeoutError):
            client.wait_for_workers(1, timeout=30)
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    offers = [worker.get("resources", {}) for worker in workers]
    machine.check_resources(plan.study.resources, offers, "no worker of the cluster")
    if any(worker["nthreads"] != 1 for worker in workers):
        raise InputError("Each worker must run one job at a time. Start workers with `dask worker ADDRESS --nthreads 1`.")
    return Counter(client.run(machine.identity).values())


def work(job: Job, *before: Outcome, folder: Path, limit: float | None, shares: Mapping[tuple, int], workers: int) -> Outcome:
    """Run a job on this worker; how it ended. `workers` counts those of a cluster made for this run."""
    from distributed import get_worker

    share = 1 if job.alone else shares.get(machine.identity(), 1)
    threads = max(1, len(machine.cores()) // share)
    gpu = machine.gpus_of(int(get_worker().name), workers) if workers else None
    stop = functools.partial(_stop_unwanted, job, folder)
    return run_jobs.attempt(job, folder, before, limit=limit, waiting=stop, threads=threads, gpu=gpu, alone=share == 1)


def _stop_unwanted(job: Job, folder: Path) -> None:
    if locks.is_free(folder / WANTED):
        raise Failure(f"{job.title}: {job.notebook} was stopped, because the claw run that wanted it ended.")
