"""A process that has imported everything once and forks a copy of itself for each job.

Importing papermill, torch and transformers takes seconds, which is most of the time of a small job. A copy has them at once:
it executes the notebook, and the notebook's kernel is a copy of that copy.

Notable choices:
- One job at a time. A line on standard input names the job's request and its log; the answers are `started PID` and
  `ended STATUS`. When whoever asked is gone, the job is killed.
- Job and kernel are one process group, so that one signal ends both.
- Nothing is computed before the fork: no thread pool, no GPU context is ever copied.
- papermill's engines decide how cells are executed, not in which process: with any of them, every notebook waits for a kernel
  that imports everything anew. So papermill runs as it is, in a kernel that is there already (`execute.ForkedKernel`).
- multiprocessing's fork server cannot be started from a Dask worker, which is a daemonic process, and has one environment for
  all that it forks.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import traceback
from importlib import import_module
from pathlib import Path

from claw.sweep.processes import kill_group, watch_parent


def serve(parent: int, replies: int) -> None:
    """Fork the job of each line of the standard input, until the input ends or the process `parent` does."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # what is blocked can be waited for
    for line in sys.stdin:
        child = _fork_job(**json.loads(line), replies=replies)
        os.write(replies, b"started %d\n" % child)
        while not (ended := os.waitpid(child, os.WNOHANG))[0] and os.getppid() == parent:
            signal.sigtimedwait({signal.SIGCHLD}, 0.2)
        kill_group(child)  # with its kernel, which may outlive it
        if not ended[0]:
            return
        os.write(replies, b"ended %d\n" % os.waitstatus_to_exitcode(ended[1]))


def _fork_job(request: str, log: str, replies: int) -> int:
    """Process id, and group, of a copy of this process that executes the job."""
    server = os.getpid()
    child = os.fork()
    if child:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it did so itself, or has ended
            os.setpgid(child, child)
        return child
    status = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        os.setpgid(0, 0)
        os.close(replies)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
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
    """Import the named modules, then serve the process that is named first; while it imports, it ends when that one does."""
    parent = int(sys.argv[1])  # told, not asked for: it may be gone by now
    imported = threading.Event()
    watcher = watch_parent(parent, imported)
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # as a kernel does before its imports
    replies = os.dup(1)
    os.dup2(2, 1)  # what imports print must not be taken for an answer
    for name in sys.argv[2:]:
        import_module(name)
    from claw import provenance

    provenance.code_hash()  # of the code as it was imported
    imported.set()  # from here on `serve` looks: a process that forks must have no other thread
    watcher.join()
    serve(parent, replies)


if __name__ == "__main__":
    main()
