"""Files that are whole or not there: written beside their final name and renamed; what is kept is verified; short hashes.

What is made once is kept with a seal beside it, `<name>.seal`: size, time, inode and sha256 of each file. As long as size,
time and inode are those of the seal, the file is taken as it is; where they are not, its bytes are read and compared.
"""

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError

from claw.errors import InputError

Seal = dict[str, list]  # [size, time in nanoseconds, inode, sha256] of each file, by its name below the folder; "." for a file


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A scratch path beside `path`: the file or folder left there becomes `path`; after an error there is nothing left.

    It may be read and written by whom the umask lets, whatever the writer chose.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=_mark(path), ignore_cleanup_errors=True) as folder:
        scratch = Path(folder) / path.name
        yield scratch
        _share(scratch)
        scratch.replace(path)


def _mark(path: Path) -> str:
    """How scratch folders of `path` begin: what a killed process left behind is known by it."""
    return f".writing-{digest(path.name)[:8]}-"


def _share(scratch: Path) -> None:
    """Give a file or all of a folder the permissions that the umask gives to new files."""
    probe = scratch.with_name(".probe")
    probe.touch()
    usual = probe.stat().st_mode & 0o777
    probe.unlink()
    for path in [scratch, *scratch.rglob("*")] if scratch.is_dir() else [scratch]:
        if not path.is_symlink():
            path.chmod(usual | (usual & 0o444) >> 2 if path.is_dir() else usual)


def made_once(path: Path, make: Callable[[Path], object], *, exact: bool = False) -> Path:
    """`path`, made by `make(scratch)` unless it is there as it was made: one process makes it while others wait.

    What changed since it was made, or was made without a seal, is made again; with `exact` so is a folder to which files were
    added. What killed processes left of it is swept. Raises InputError where the disk refuses.
    """
    seal = path.with_name(path.name + ".seal")
    if _is_as_sealed(path, seal, exact) or _has_sealed_bytes(path, seal, exact):
        return path
    with in_cache(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if _is_as_sealed(path, seal, exact):
                return path
            if seal.exists() and path.exists():
                warnings.warn(f"{path} is not as claw made it, so it is made again.", stacklevel=2)
            for left in path.parent.glob(f"{_mark(path)}*"):  # nobody else makes `path` while its lock is held here
                shutil.rmtree(left, ignore_errors=True)
            with whole(path) as scratch:
                make(scratch)
                seal.unlink(missing_ok=True)
                if path.exists() or path.is_symlink():
                    path.rename(scratch.with_name(".replaced"))
            _write_seal(path, seal)
    return path


@contextmanager
def in_cache(path: Path) -> Iterator[None]:
    """Turn what the disk refuses while `path` is made in the cache into an InputError."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # the second where safetensors cannot write
        raise InputError(
            f"{path.name[:80]} cannot be kept in the cache {path.parent}: {error}. The cache must be a folder that you may "
            "write to, on a disk with free space: free some space, correct its permissions, or set CLAW_CACHE to another "
            "folder."
        ) from error


def sealed(path: Path) -> list:
    """[size, time in nanoseconds, inode, sha256] of a file."""
    return [*_stamp(path), sha256(path)]


def is_as_sealed(path: Path, entry: list) -> bool:
    """Whether a file has the size, time and inode of when it was sealed; nothing is read."""
    with suppress(OSError):
        return path.is_file() and _stamp(path) == entry[:3]
    return False


def _stamp(path: Path) -> list[int]:
    about = path.stat()
    return [about.st_size, about.st_mtime_ns, about.st_ino]


def _files(path: Path) -> dict[str, Path]:
    """The files of a folder by their names below it, or a file itself."""
    return {str(p.relative_to(path)): p for p in sorted(path.rglob("*")) if p.is_file()} if path.is_dir() else {".": path}


def _write_seal(path: Path, seal: Path) -> None:
    with whole(seal) as scratch:
        scratch.write_text(json.dumps({name: sealed(file) for name, file in _files(path).items()}, indent=1))


def _read_seal(path: Path, seal: Path, exact: bool) -> Seal:
    """The seal; empty where there is none, it is damaged, or the files are not those that it names."""
    with suppress(OSError, ValueError):
        entries = json.loads(seal.read_text(encoding="utf-8"))
        names = set(_files(path))
        if isinstance(entries, dict) and (entries.keys() == names if exact else entries.keys() <= names):
            return {name: entry for name, entry in entries.items() if isinstance(entry, list) and len(entry) == 4}
    return {}


def _is_as_sealed(path: Path, seal: Path, exact: bool) -> bool:
    entries = _read_seal(path, seal, exact)
    return bool(entries) and all(is_as_sealed(path / name, entry) for name, entry in entries.items())


def _has_sealed_bytes(path: Path, seal: Path, exact: bool) -> bool:
    """Whether all bytes are those of the seal, which is then renewed: the files were copied, or touched."""
    with suppress(OSError):
        entries = _read_seal(path, seal, exact)
        if entries and all(sha256(path / name) == entry[3] for name, entry in entries.items()):
            with suppress(OSError):  # a cache that one may only read
                _write_seal(path, seal)
            return True
    return False


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
