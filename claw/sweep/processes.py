"""The process of a job, as the run that started it sees it: its environment, how it ended, how to end it.

On Linux it is a copy forked by `claw.sweep.fork_server`; elsewhere, where forking is not safe (macOS), one that imports
everything itself. Both answer `wait`, `kill` and `status`.
"""

import contextlib
import functools
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

MODULES = ("papermill", "ipykernel.kernelapp", "claw.stages", "claw.figures.measured", "claw.figures.maps", "peft")
"""What a fork server imports before its first job."""


def environment(threads: int | None = None, gpu: str | None = None, *, alone: bool = True) -> dict[str, str]:
    """Environment of a job that may use this many processor threads (all, if not said) and these GPUs.

    Threads that spin while they wait take the processor from the jobs beside them, so they are told to sleep; not those of a
    job that is `alone` on its machine, because a thread that sleeps wakes up late: scoring takes a sixth longer, and it would
    be timed.
    """
    own = dict(os.environ)
    if not alone:
        own.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if threads is not None:
        own.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)))
    if gpu is not None:
        own["CUDA_VISIBLE_DEVICES"] = gpu
    return own


def start(request: Path, log: IO[str], **machine) -> "ForkedJob | FreshJob":
    """Start the process of the job that the file `request` describes; `machine` is passed on to `environment`."""
    own = environment(**machine)
    if sys.platform == "linux":
        return _fork_server(tuple(sorted(own.items())), os.getcwd()).start(request, log)
    command = [sys.executable, "-m", "claw.sweep.execute", str(request), str(os.getpid())]
    return FreshJob(command, stdout=log, stderr=log, env=own)


class FreshJob:
    """A job in a process of its own that imports everything itself."""

    def __init__(self, command: list[str], **options):
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **options)
        self.status: int | None = None  # exit status of the job, or None while it runs

    def wait(self, seconds: float) -> int | None:
        """Exit status of the job, or None when it still runs after `seconds`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.status = self._process.wait(seconds)
        return self.status

    def kill(self) -> None:
        """Kill what is left of the job's process group."""
        kill_group(self._process.pid)
        self.status = self._process.wait()


class ForkServer:
    """The process that forks jobs; started when first needed, and again after it died."""

    def __init__(self, variables: Iterable[tuple[str, str]], folder: str):
        self.variables, self.folder = dict(variables), folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, request: Path, log: IO[str]) -> "ForkedJob":
        """Fork a job; raises OSError when the server could not be started."""
        process = self._process
        if process is None or process.poll() is not None:
            command = [sys.executable, "-m", "claw.sweep.fork_server", str(os.getpid()), *MODULES]
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log, "bufsize": 0}
            process = subprocess.Popen(command, start_new_session=True, env=self.variables, cwd=self.folder, **pipes)
            self._process = process
        assert process.stdin
        try:
            process.stdin.write(json.dumps({"request": str(request), "log": log.name}).encode() + b"\n")
        except BrokenPipeError:  # it died while it was idle
            process.wait()
            return self.start(request, log)
        return ForkedJob(process)

    def __del__(self) -> None:
        """End the server, by the end of its input."""
        if self._process is not None:
            self._process.communicate()


_fork_server = functools.lru_cache(maxsize=1)(ForkServer)


class ForkedJob:
    """A job of a fork server."""

    def __init__(self, server: subprocess.Popen[bytes]):
        assert server.stdout
        self._server, self._replies = server, server.stdout
        self.pid: int | None = None
        self.status: int | None = None

    def wait(self, seconds: float) -> int | None:
        """Exit status of the job, or None when it still runs after `seconds`."""
        while self.status is None and select.select([self._replies], [], [], seconds)[0]:
            word, _, number = self._replies.readline().partition(b" ")
            if word == b"started":
                self.pid = int(number)
            elif word == b"ended":
                self.status = int(number)
            else:  # the server is gone, and its job with it
                self.status = -signal.SIGKILL
                self._server.wait()
        return self.status

    def kill(self) -> None:
        """Kill what is left of the job, its kernel included; a server that is still importing goes with it."""
        if self.pid is None:
            self._server.kill()
            self._server.wait()
            return
        kill_group(self.pid)
        while self.wait(1.0) is None:
            pass


def watch_parent(parent: int, over: threading.Event | None = None) -> threading.Thread:
    """End this process group as soon as `parent` is no longer the parent process, until `over` is set.

    It is a thread, so it looks during a long import, too. Linux can send a signal at the parent's death (prctl), but takes the
    thread that started this process for the parent, and threads of Dask's workers come and go.
    """
    over = over or threading.Event()

    def watch() -> None:
        while os.getppid() == parent:
            if over.wait(0.2):
                return
        os.killpg(os.getpgid(0), signal.SIGKILL)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def kill_group(leader: int) -> None:
    """Kill every process of a group; one that is gone already is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
