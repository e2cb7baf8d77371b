"""Files that are whole or not there, and the one place where claw replaces or deletes anything.

Rule: claw replaces and deletes only what it made and can prove that it made; links are neither replaced nor followed.

- A file under a name for people (`table.csv`, `findings.md`, a figure) is written by `own_file`, which leaves its digest in the
  folder `.claw` beside it. What has no such stamp, or was changed since, is refused.
- A folder with a manifest (a checkpoint) is claw's while it holds just the files of its manifest, unchanged (`is_untouched`).
- Files inside claw's cache and in the rooms of a run (`records`, `jobs`, `logs`) are claw's by their names, which hold hashes.
- A scratch folder holds a file that its writer keeps locked, so what a killed process left behind is known and cleared.
"""

import contextlib
import fcntl
import functools
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from claw.errors import InputError
from claw.files.digests import sha256

STAMPS = ".claw"  # folder of stamps, beside the files that they are of
STAMP = "written by claw, sha256"
SCRATCH, LOCK = ".writing-", "claw-scratch"


@contextmanager
def whole(path: Path, *, instead_of: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """A scratch path beside `path`: the file or folder left there becomes `path`; after an error all is as before.

    What is there already is replaced by a folder only if `instead_of` says that it may be. A link at `path` is refused.
    """
    with _scratch_folder(path) as folder:
        scratch = folder / path.name
        yield scratch
        _grant(scratch, (folder / LOCK).stat().st_mode & 0o666)
        if not (instead_of and path.exists()):
            os.replace(scratch, path)
            return
        before = folder / f"{path.name}.before"
        os.rename(path, before)
        try:
            if not instead_of(before):
                raise InputError(f"{path} was changed while its successor was written. It stays as it is; save elsewhere.")
            os.rename(scratch, path)
        except BaseException:
            os.rename(before, path)
            raise


@contextmanager
def _scratch_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path`, no link, for this process alone, gone afterwards; what killed processes left is cleared first."""
    refuse_link(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_abandoned(path.parent)
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=SCRATCH))
    try:
        with (folder / LOCK).open("w") as mark:
            with contextlib.suppress(OSError):  # a file system without locks: nobody clears there
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
                mark.write(_holder())
                mark.flush()
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _holder() -> str:
    return f"scratch of claw on {platform.node()}"


@functools.cache  # once for each folder of a process
def _clear_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{SCRATCH}*"):
        mark = folder / LOCK
        with contextlib.suppress(OSError):
            if folder.is_symlink() or mark.is_symlink() or mark.read_text() != _holder():
                continue
            with mark.open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while its writer lives
                shutil.rmtree(folder, ignore_errors=True)


def _grant(path: Path, mode: int) -> None:
    """Give files and folders that only their owner may read the mode that the umask gives any others."""
    private = {0o600: mode, 0o700: mode | (mode & 0o444) >> 2}
    for file in (path, *path.rglob("*")) if path.is_dir() else (path,):
        if not file.is_symlink() and (before := file.stat().st_mode & 0o777) == (0o700 if file.is_dir() else 0o600):
            file.chmod(private[before])


def refuse_link(path: Path) -> None:
    """InputError where `path` itself is a link: what it leads to, and the link, belong to somebody else."""
    if path.is_symlink():
        raise InputError(f"{path} is a link to {os.readlink(path)}, and claw does not write over links. Name another place.")


def write_text(path: Path, text: str) -> None:
    """Write a file of claw's own rooms, whole and flushed before it gets its name. InputError where the disk refuses."""
    with _explained(path), whole(path) as scratch:
        _flushed(scratch, text)


def _flushed(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path.name} could not be written to {path.parent}: {error}. What was recorded before is safe; free disk space or "
            "correct the permissions and run again."
        ) from error


@contextmanager
def own_file(path: Path) -> Iterator[Path]:
    """A scratch path; the file left there becomes `path`, unless a file is there that claw did not write: InputError.

    A file that holds just what would be written stays.
    """
    with _explained(path), whole_and_stamped(path) as scratch:
        yield scratch


@contextmanager
def whole_and_stamped(path: Path) -> Iterator[Path]:
    """As `own_file`, with the errors of the disk as they are."""
    with _scratch_folder(path) as folder:
        scratch = folder / path.name
        yield scratch
        new = sha256(scratch)
        if path.is_file() and sha256(path) == new:
            return
        check_own([path])
        _grant(scratch, (folder / LOCK).stat().st_mode & 0o666)
        _stamp(path, new)
        os.replace(scratch, path)


def write_own(path: Path, text: str) -> None:
    """Write a text under a name for people; InputError over a file that claw did not write (`own_file`)."""
    with own_file(path) as scratch:
        _flushed(scratch, text)


def _stamp_of(path: Path) -> Path:
    return path.parent / STAMPS / f"{path.name}.sha256"


def _stamp(path: Path, new: str) -> None:
    """Say that a file with this digest is claw's; the one that it replaces is, too, until it is replaced."""
    before = [sha256(path)] if path.is_file() else []
    refuse_link(_stamp_of(path).parent)
    write_text(_stamp_of(path), "\n".join([STAMP, new, *before]) + "\n")


def is_own(path: Path) -> bool:
    """Whether claw may write `path`: nothing is there, or a file that claw wrote and nobody changed since."""
    stamp = _stamp_of(path)
    if path.is_symlink() or stamp.is_symlink() or stamp.parent.is_symlink():
        return False
    if not path.exists():
        return True
    try:
        said, *digests = stamp.read_text(encoding="utf-8").splitlines()
        return path.is_file() and said == STAMP and sha256(path) in digests
    except (OSError, ValueError):
        return False


def check_own(paths: Iterable[Path]) -> None:
    """InputError unless claw may write every one of these files."""
    for path in paths:
        refuse_link(path)
        if path.is_dir():
            raise InputError(f"{path} is a folder, where claw would write a file. Move it elsewhere, or name another place.")
        if not is_own(path):
            changed = "was changed since claw wrote it" if _stamp_of(path).is_file() else "was not written by claw"
            raise InputError(
                f"{path} is there and {changed}, so claw leaves it as it is. Move it elsewhere or delete it, or name another "
                "place, and run again."
            )


def adopt(paths: Iterable[Path]) -> None:
    """Stamp files that an earlier claw, which left no stamps, is known to have written."""
    for path in paths:
        if path.is_file() and not path.is_symlink() and not _stamp_of(path).exists():
            _stamp(path, sha256(path))


def stamped(folder: Path) -> list[Path]:
    """Files of a folder that claw wrote, changed since or not."""
    return [folder / stamp.stem for stamp in sorted((folder / STAMPS).glob("*.sha256"))]


def discard(path: Path) -> None:
    """Delete a file of claw's own rooms, if it is there; a link or a folder under its name stays."""
    if path.is_file() and not path.is_symlink():
        path.unlink(missing_ok=True)


def rename(path: Path, target: Path) -> None:
    """Give a file of claw's own rooms its final name, which no link has."""
    refuse_link(target)
    os.replace(path, target)


def discard_empty(folder: Path) -> None:
    """Delete a folder that holds nothing; any other stays."""
    with contextlib.suppress(OSError):
        if not folder.is_symlink():
            folder.rmdir()


def manifest(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder, by its path in it."""
    return {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def is_untouched(folder: Path, written: Mapping[str, str], marker: str) -> bool:
    """Whether a folder holds just the files of the manifest `written` and its `marker`, all as written and none a link."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    inside = list(folder.rglob("*"))
    names = {path.relative_to(folder).as_posix() for path in inside if not path.is_dir()}
    parents = {parent.as_posix() for name in names for parent in Path(name).parents}
    plain = all(not path.is_symlink() and (path.is_file() or path.relative_to(folder).as_posix() in parents) for path in inside)
    return plain and names == {*written, marker} and all(sha256(folder / name) == had for name, had in written.items())


def discard_folder(folder: Path, written: Mapping[str, str], marker: str) -> bool:
    """Delete a folder that claw made and nobody touched (`is_untouched`); whether it was deleted.

    Never through a link: the folder is deleted only from a parent that is no link either.
    """
    if folder.parent.is_symlink() or not is_untouched(folder, written, marker):
        return False
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()
