"""A process that has imported everything once and forks a copy of itself for each job: `python -m claw.sweep.warm`.

Importing papermill, torch and transformers takes seconds, which is most of the time of a small job. A copy has them at once:
it executes the notebook, and the notebook's kernel is a copy of that copy.

Notable choices:
- One job at a time. A line on standard input names the job's request and its log; the answers are `started PID` and
  `ended STATUS`. When standard input ends, whoever asked is gone, and the job is killed.
- Job and kernel are one process group, so that one signal ends both.
- Nothing is computed before the fork: no thread pool, no GPU context is ever copied.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import IO

MODULES = ("papermill", "ipykernel.kernelapp", "claw.stages", "claw.figures.measured", "claw.figures.maps", "peft")


class Server:
    """The process that forks jobs, seen from who wants them run; started when first needed, and again after it died."""

    def __init__(self, environment: dict[str, str], folder: str):
        self.environment, self.folder = environment, folder
        self._process: subprocess.Popen | None = None

    def start(self, request: Path, log: IO) -> "ForkedJob":
        """Fork a job; raises OSError when the server could not be started."""
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "claw.sweep.warm", *MODULES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                start_new_session=True, env=self.environment, cwd=self.folder, bufsize=0,
            )  # fmt: skip
        message = json.dumps({"request": str(request), "log": log.name}).encode() + b"\n"
        try:
            self._process.stdin.write(message)
        except BrokenPipeError:  # it died while it was idle
            self._process.wait()
            return self.start(request, log)
        return ForkedJob(self._process)

    def close(self) -> None:
        """End the server, and its job with it."""
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()
            self._process = None

    __del__ = close


class ForkedJob:
    """A job of a server."""

    def __init__(self, server: subprocess.Popen):
        self._server, self._said = server, b""
        self.pid: int | None = None
        self.status: int | None = None

    def wait(self, seconds: float) -> int | None:
        """Exit status of the job, or None when it still runs after `seconds`."""
        while self.status is None and select.select([self._server.stdout], [], [], seconds)[0]:
            said = os.read(self._server.stdout.fileno(), 4096)
            if not said:  # the server is gone, and its job with it
                self.status = -signal.SIGKILL
                self._server.wait()
            *lines, self._said = (self._said + said).split(b"\n")
            for word, number in (line.split() for line in lines):
                if word == b"started":
                    self.pid = int(number)
                else:
                    self.status = int(number)
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


def kill_group(leader: int) -> None:
    """Kill every process of a group; one that is gone already is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def serve(requests: int, replies: int) -> None:
    """Fork the job of each line until the input ends."""
    waiting, child = b"", 0
    ended, wake = os.pipe()  # readable when a child ended
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready = select.select([requests, ended], [], [])[0]
        if ended in ready:
            os.read(ended, 4096)
        if requests in ready:
            said = os.read(requests, 65536)
            if not said:
                if child:
                    kill_group(child)
                return
            waiting += said
        if not child and b"\n" in waiting:
            line, _, waiting = waiting.partition(b"\n")
            child = _fork_job(**json.loads(line), close=(requests, replies, ended, wake))
            os.write(replies, b"started %d\n" % child)
        if child:
            gone, status = os.waitpid(child, os.WNOHANG)
            if gone:
                kill_group(child)  # its kernel, when the job was killed alone
                child = 0
                os.write(replies, b"ended %d\n" % os.waitstatus_to_exitcode(status))


def _fork_job(request: str, log: str, close: tuple[int, ...]) -> int:
    """Process id, and group, of a copy of this process that executes the job."""
    server = os.getpid()
    child = os.fork()
    if child:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it did so itself, or has ended
            os.setpgid(child, child)
        return child
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setpgid(0, 0)
        for descriptor in close:
            os.close(descriptor)
        out = os.open(log, os.O_WRONLY | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        status = import_module("claw.sweep.execute").execute_job(Path(request), parent=server, fork=True)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)


def main() -> None:
    """Import the named modules, then serve. While it imports it looks whether somebody still waits for it."""
    parent = os.getppid()
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # as a kernel does before its imports
    replies = os.dup(1)
    os.dup2(2, 1)  # what imports print must not be taken for an answer
    for name in sys.argv[1:]:
        import_module(name)
        if os.getppid() != parent:
            return
    from claw import provenance

    provenance.code_hash()  # of the code as it was imported
    serve(0, replies)


if __name__ == "__main__":
    main()
