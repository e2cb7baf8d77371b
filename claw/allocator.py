"""Freed memory kept at hand while tensors of the same sizes come and go, on Linux with glibc.

glibc maps what is larger than 32 MB anew each time and gives back what is free at the end of its heap, so a walk through a
model has its pages taken and cleared again and again: of calibrating SmolLM2-135M on two cores a tenth of the time. Inside
`freed_memory_kept` memory that was freed stays with the process; at its end all of it is given back.
"""

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, MMAP_MAX = -1, -2, -3, -4  # mallopt(3)
KEPT = {MMAP_MAX: 0, TRIM_THRESHOLD: (1 << 31) - 1, TOP_PAD: 1 << 28}
USUAL = {MMAP_MAX: 65536, TRIM_THRESHOLD: 64 << 20, TOP_PAD: 128 << 10, MMAP_THRESHOLD: 32 << 20}
"""What glibc comes to by itself after large blocks were freed once."""

_inside = 0  # how many of these are open


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """For as long as it is open, the process keeps what it frees. Nothing where glibc is not the allocator."""
    global _inside
    libc = _glibc()
    _inside += 1
    if libc and _inside == 1:
        _set(libc, KEPT)
    try:
        yield
    finally:
        _inside -= 1
        if libc and not _inside:
            _set(libc, USUAL)
            give_back_freed()


def give_back_freed() -> None:
    """Give the system what was freed so far, also inside `freed_memory_kept`: after a step that leaves many holes."""
    if libc := _glibc():
        libc.malloc_trim(0)


def _set(libc: Any, options: dict[int, int]) -> None:
    for option, value in options.items():
        libc.mallopt(option, value)


@lru_cache(maxsize=1)
def _glibc() -> Any:
    """The C library, if it is glibc."""
    return ctypes.CDLL(None) if sys.platform == "linux" and platform.libc_ver()[0] == "glibc" else None
