"""A process that has imported everything once and forks a copy of itself for each job.

Importing papermill, torch and transformers takes seconds, which is most of the time of a small job. A copy has them at once:
it executes the notebook, and the notebook's kernel is a copy of that copy.

Notable choices:
- One job at a time. A line on standard input names the job's request and its log; the answers are `started PID` and
  `ended STATUS`. When standard input ends, whoever asked is gone, and the job is killed.
- Job and kernel are one process group, so that one signal ends both.
- Nothing is computed before the fork: no thread pool, no GPU context is ever copied.
- papermill's engines decide how cells are executed, not in which process: with any of them, every notebook waits for a kernel
  that imports everything anew. So papermill runs as it is, in a kernel that is there already (`claw.sweep.forked_kernel`).
"""

import contextlib
import json
import os
import select
import signal
import sys
import traceback
from importlib import import_module
from pathlib import Path

from claw.sweep.processes import kill_group


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
