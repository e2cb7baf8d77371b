"""Locks of the operating system on files: they end with the process that holds them, however it ends, and need no clock.

filelock and portalocker offer less than a sweep needs: a file that tells those who wait, and `claw status`, who holds it;
shared locks; a file that goes with its job although others wait for it, so that none is left stale; no trouble on file systems
without locks. With either of them, all that is below but `_try` would have to be written on top.

- a run's folder belongs to one `claw run` (`whole_run`);
- a job's mark in `running/` is held by the process that executes it, so a mark that is free is stale (`mark`, `marks`);
- speed is timed alone on a machine: `room` lets any number of other jobs in together, or one timing job alone.
"""

import contextlib
import errno
import fcntl
import functools
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from claw import files
from claw.errors import InputError
from claw.specs.on_disk import read_object

UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)  # what file systems without locks answer


def _try(file: BinaryIO, kind: int) -> bool:
    """Whether the lock was granted, without waiting. A file system without locks grants every lock."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return True
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _open(path: Path) -> BinaryIO:
    try:
        files.refuse_link(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+b")
    except OSError as error:
        raise InputError(
            f"{path.parent} cannot be written to: {error}. A run writes its records there: correct the permissions, free disk "
            "space, or run where you may write."
        ) from error


@contextlib.contextmanager
def hold(
    path: Path, holder: str = "", *, shared: bool = False, waiting: Callable[[str], object] = lambda who: None
) -> Iterator[None]:
    """Hold the lock `path`, waiting for it as long as it takes; meanwhile `waiting` is called with who holds it.

    `holder` says who holds it now.
    """
    while True:
        with _open(path) as file:
            while not _try(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
                who = ""
                with contextlib.suppress(OSError):
                    who = path.read_text(errors="replace").strip()
                waiting(who)
                time.sleep(0.2)
            if _is_at(file, path):
                if holder:
                    _refuse_foreign(file, path)
                    file.truncate(0)
                    file.write(holder.encode())
                    file.flush()
                yield
                return


def _refuse_foreign(file: BinaryIO, path: Path) -> None:
    """InputError where the file holds anything but the word of an earlier holder, which is to be replaced."""
    file.seek(0)
    if (content := file.read(64)) and not content.startswith((b"process ", b'{"host"')):
        raise InputError(f"{path} is there and was not written by claw, which keeps its lock there. Move it elsewhere.")


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether `path` still names this file: who held it before may have deleted it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock `path`, although it was there to be held."""
    try:
        with path.open("rb") as file:
            return _try(file, fcntl.LOCK_SH)
    except OSError:
        return False


def whole_run(folder: Path, waiting: Callable[[str], object]) -> contextlib.AbstractContextManager[None]:
    """Be the only `claw run` in `folder`; a second one waits for the first to end, and calls `waiting` once."""
    holder = f"process {os.getpid()} on {platform.node()}"
    return hold(folder / ".lock", holder, waiting=functools.cache(waiting))


@contextlib.contextmanager
def mark(folder: Path, job: str, about: dict[str, Any], patience: float = 30.0) -> Iterator[None]:
    """Mark a job as running; InputError when another process still runs it after `patience` seconds."""
    path, ends = folder / "running" / f"{job}.json", time.monotonic() + patience
    content = {"host": platform.node(), "process": os.getpid(), "started": time.time(), **about}

    def waiting(who: str) -> None:
        if time.monotonic() > ends:
            raise InputError(f"{job} is being run by another process ({who}). Wait until that ended, or end it.")

    with hold(path, json.dumps(content), waiting=waiting):
        try:
            yield
        finally:
            files.discard(path)


def marks(folder: Path) -> dict[str, dict[str, Any]]:
    """What is running in a run's folder now: job id to what its mark says. Marks that nobody holds are left out."""
    running = {}
    for path in sorted((folder / "running").glob("*.json")):
        with contextlib.suppress(InputError):  # of a mark that is being written
            about = {} if is_free(path) else read_object(path) or {}
            makes = about.get("makes")
            if about:
                running[path.stem] = about | {"makes": makes if isinstance(makes, list) else []}
    return running


@contextlib.contextmanager
def room(folder: Path, *, alone: bool) -> Iterator[None]:
    """Share this machine with other jobs, or have it `alone`; `folder` holds the locks of all machines.

    A job that wants to be alone closes the gate first, so that those inside leave and nobody new enters.
    """
    gate, inside = folder / f"{platform.node()}.gate", folder / f"{platform.node()}.inside"
    with contextlib.ExitStack() as stack:
        with contextlib.ExitStack() as entering:
            (stack if alone else entering).enter_context(hold(gate, shared=not alone))
            stack.enter_context(hold(inside, shared=not alone))
        yield
