"""Files that are whole or not there: written beside their final name and renamed; and short hashes of what they hold."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from claw.errors import InputError


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A scratch path beside `path`: the file or folder left there becomes `path`; after an error there is nothing left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-", ignore_cleanup_errors=True) as folder:
        scratch = Path(folder) / path.name
        yield scratch
        scratch.replace(path)


def made_once(path: Path, make: Callable[[Path], object]) -> Path:
    """`path`, made by `make(scratch)` if it is not there yet: one process makes it while others wait, and it appears whole."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.exists():
                with whole(path) as scratch:
                    make(scratch)
    return path


def write_text(path: Path, text: str) -> None:
    """Write a file whole and flush it to disk before it gets its name. InputError where the disk refuses."""
    try:
        with whole(path) as scratch, scratch.open("w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise InputError(
            f"{path.name} could not be written to {path.parent}: {error}. What was recorded before is safe; free disk space or "
            "correct the permissions and run again."
        ) from error


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(*parts: str | bytes) -> str:
    """First 16 hex digits of the sha256 of these texts, one after the other."""
    joined = b"".join(part.encode() if isinstance(part, str) else part for part in parts)
    return hashlib.sha256(joined).hexdigest()[:16]
