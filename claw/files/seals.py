"""What is made once and kept in the cache is verified whenever it is used.

Beside it lies a seal, `<name>.seal`: size, time, inode and sha256 of each file. As long as size, time and inode are those of
the seal, the file is taken as it is; where they are not, its bytes are read and compared.
"""

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError

from claw.errors import InputError
from claw.files.digests import sha256
from claw.files.writing import discard, whole

Seal = dict[str, list]  # [size, time in nanoseconds, inode, sha256] of each file, by its name below the folder; "." for a file


def made_once(path: Path, make: Callable[[Path], object], *, exact: bool = False) -> Path:
    """`path`, made by `make(scratch)` unless it is there as it was made: one process makes it while others wait.

    What changed since it was made, or was made without a seal, is made again; with `exact` so is a folder to which files were
    added. Raises InputError where the disk refuses.
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
            with whole(path, instead_of=lambda before: True) as scratch:  # names in the cache are claw's
                make(scratch)
                discard(seal)
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
