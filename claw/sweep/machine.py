"""What machines offer and jobs ask for: processor cores, GPUs, memory in gigabytes."""

import functools
import os
import platform
from collections.abc import Iterable, Mapping

import psutil

from claw.errors import InputError
from claw.specs.study import Resources

NAMES = {"gpus": "GPU", "gpu_memory": "GPU_MEMORY", "memory": "MEMORY"}
"""What a study calls a resource, and what Dask's workers call it."""


def cores() -> frozenset[int]:
    """Processor cores that this process may use, by number."""
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset(range(os.cpu_count() or 1))


def identity() -> tuple[str, frozenset[int]]:
    """What workers that share processor cores have in common."""
    return platform.node(), cores()


@functools.cache
def gpus() -> tuple[str, ...]:
    """GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return tuple(named or map(str, range(torch.cuda.device_count())))


def gpus_of(worker: int, workers: int) -> str | None:
    """The GPUs of one of several workers on this machine: its own if there are enough, else one that it shares."""
    names = gpus()
    each = max(1, len(names) // workers)
    return ",".join(names[(worker * each + i) % len(names)] for i in range(each)) if names else None


def offer(workers: int, asked: Mapping[str, float]) -> dict[str, float]:
    """What each of `workers` on this machine offers of what is asked, by Dask's names."""
    here = {"memory": psutil.virtual_memory().total / 1e9 / workers}
    if {"gpus", "gpu_memory"} & set(asked):
        from torch import cuda

        here |= {"gpus": 0.0, "gpu_memory": 0.0}
        if count := len(gpus()):
            smallest = min(cuda.get_device_properties(i).total_memory for i in range(cuda.device_count())) / 1e9
            here |= {"gpus": float(max(1, count // workers)), "gpu_memory": smallest / max(1.0, workers / count)}
    return {NAMES[name]: here[name] for name in asked}


def check_resources(resources: Resources, offers: Iterable[Mapping[str, float]], whose: str) -> None:
    """Raise InputError unless one of these workers offers all that a job asks for."""
    asked = resources.asked
    workers = [{name: offered.get(NAMES[name], 0.0) for name in asked} for offered in offers]
    if all(any(worker[name] < amount for name, amount in asked.items()) for worker in workers):
        wanted = ", ".join(f"{name}: {amount:g}" for name, amount in asked.items()) or "a worker"
        kinds = sorted({", ".join(f"{name}: {amount:.3g}" for name, amount in worker.items()) for worker in workers})
        options = ",".join(f"{NAMES[name]}={amount:g}" for name, amount in asked.items())
        raise InputError(
            f"The study's resources ask for {wanted} for each job, but {whose} offers {'; or '.join(kinds) or 'no worker'}. "
            "Ask for less in the study's `resources`, use fewer workers, or start workers that offer more "
            f'(dask worker --resources "{options}").'
        )
