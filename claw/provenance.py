"""What a result was made with: versions, code, machine. It goes into every record."""

import contextlib
import functools
import os
import platform
import re
import resource
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from claw.errors import InputError
from claw.files import digest, sha256, write_text
from claw.project import cache

PACKAGES = ("claw", "torch", "transformers", "lm_eval", "statsmodels", "numpy", "peft", "accelerate")

SETTLED = 2.0  # seconds after which writing to a file again gives it another time, on any file system


@functools.cache
def code_hash(room: str = "") -> str:
    """First 12 hex digits of a hash over claw's own source, or one room of it: records with the same one ran the same code."""
    root = Path(__file__).parent / room
    paths = sorted(path for path in root.rglob("*") if path.suffix in (".py", ".yaml"))
    return digest(*(str(path.relative_to(root)).encode() + path.read_bytes() for path in paths))[:12]


@functools.cache
def _machine() -> dict[str, Any]:
    """Versions, the commit that claw runs from, with "+" if it has changes (None outside a repository), and the processor."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    command = "git describe --always --abbrev=12 --dirty=+ --exclude=*".split()
    commit = processor = ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        commit = subprocess.check_output(command, cwd=Path(__file__).parent, stderr=subprocess.DEVNULL, text=True, timeout=10)
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    hardware = {"machine": platform.machine(), "processor": processor or platform.processor(), "cores": os.cpu_count()}
    return {"versions": versions, "git": commit.strip() or None} | hardware


def made_with(device: Any, dtype: Any) -> dict[str, Any]:
    """Versions, code and git hash, processor, threads, device and number type."""
    import torch

    name = torch.cuda.get_device_name(device) if str(device).startswith("cuda") else str(device)
    used = {"threads": torch.get_num_threads(), "device": name, "dtype": str(dtype).removeprefix("torch.")}
    return {"versions": _machine()["versions"], "code": code_hash()} | _machine() | used


def content_hash(path: Path) -> str:
    """sha256 of all bytes of a file, in hex. It is kept in the cache for as long as the file is not written to."""
    about = path.stat()
    stamp = f"{path.resolve()} {about.st_size} {about.st_mtime_ns} {about.st_ctime_ns} {about.st_ino}"
    kept = cache() / "hashes" / digest(stamp)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if re.fullmatch("[0-9a-f]{64}", known := kept.read_text()):
            return known
    content = sha256(path)
    if time.time() - max(about.st_mtime, about.st_ctime) > SETTLED and path.stat() == about:
        with contextlib.suppress(InputError):  # a cache that is full or read-only: hashed again next time
            write_text(kept, content)
    return content


def resident_peak() -> int:
    """Highest resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts kilobytes
