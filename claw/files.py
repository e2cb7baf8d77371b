"""Files that are whole or not there: written beside their final name, flushed and renamed; and their hashes."""

import hashlib
import os
import tempfile
from pathlib import Path

from claw.errors import InputError


def write_text(path: Path, text: str) -> None:
    """Write a file beside itself, flush it to disk, and rename it into place."""
    scratch = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}-", suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        os.chmod(scratch, 0o644)
        os.replace(scratch, path)
    except OSError as error:
        if scratch:
            Path(scratch).unlink(missing_ok=True)
        raise InputError(
            f"{path.name} could not be written to {path.parent}: {error}. What was recorded before is safe; free disk space or "
            "correct the permissions and run again."
        ) from error


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
