"""Freed memory stays with the process while it is wanted, and not a moment longer."""

import platform
import resource

import pytest
import torch

from claw.allocator import freed_memory_kept

LARGE = 48 << 20  # bytes: more than glibc keeps by itself
here = platform.system() == "Linux" and platform.libc_ver()[0] == "glibc"


def faults(count=8):
    """Page faults of making and freeing large tensors."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        torch.zeros(LARGE // 4).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not here, reason="the allocator is not glibc's")
def test_pages_are_taken_once_inside_and_given_back_at_the_end():
    outside = faults()
    with freed_memory_kept():
        with freed_memory_kept():
            inside = faults()
        assert faults() < outside / 4  # the inner one's end ends nothing
    assert inside < outside / 2 and faults() > outside / 2


def test_it_ends_with_an_error_too():
    with pytest.raises(ZeroDivisionError), freed_memory_kept():
        raise ZeroDivisionError
    from claw import allocator

    assert not allocator._inside
