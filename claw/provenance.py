"""What a result was made with: versions, code, machine. It goes into every record."""

import contextlib
import functools
import os
import platform
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from claw.files import digest

PACKAGES = ("claw", "torch", "transformers", "lm_eval", "statsmodels", "numpy", "peft", "accelerate")


@functools.cache
def code_hash(room: str = "") -> str:
    """First 12 hex digits of a hash over claw's own source, or one room of it: records with the same one ran the same code."""
    root = Path(__file__).parent / room
    paths = sorted(path for path in root.rglob("*") if path.suffix in (".py", ".yaml"))
    return digest(*(str(path.relative_to(root)).encode() + path.read_bytes() for path in paths))[:12]


@functools.cache
def git_commit() -> str | None:
    """Commit of the working copy claw runs from, with "+" if it has changes; None outside a repository."""
    command = "git describe --always --abbrev=12 --dirty=+ --exclude=*".split()
    try:
        commit = subprocess.check_output(command, cwd=Path(__file__).parent, stderr=subprocess.DEVNULL, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.strip() or None


@functools.cache
def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def made_with(device: Any = None, dtype: Any = None) -> dict[str, Any]:
    """Versions, code and git hash, processor, threads, device and number type."""
    import torch

    name = str(device) if device is not None else "cpu"
    if name.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
    return {
        "versions": _versions(),
        "code": code_hash(),
        "git": git_commit(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": name,
        "dtype": str(dtype).removeprefix("torch.") if dtype is not None else None,
    }


def resident_peak() -> int:
    """Highest resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts kilobytes


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
