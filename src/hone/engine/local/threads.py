"""The number of threads for tensor operations."""

from __future__ import annotations

import os

import torch

SMALL_MODEL = 10_000_000
"""Below this number of parameters one thread is as fast as several, because of synchronisation."""


def threads_for(wanted: int | None, parameters: int, *, sharers: int = 1) -> int:
    """Threads of a process: `wanted` (`cluster.cpu_threads`) if given, otherwise torch's own number if OMP_NUM_THREADS
    is set, otherwise one for a small model and, for a larger one, all cores divided by the `sharers` processes."""
    if wanted is not None:
        return wanted
    if "OMP_NUM_THREADS" in os.environ:
        return torch.get_num_threads()
    return 1 if parameters < SMALL_MODEL else max(1, cores() // sharers)


def cores() -> int:
    """Cores that this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_threads(wanted: int | None, model: torch.nn.Module) -> None:
    """Set torch's number of threads to `threads_for` the model."""
    torch.set_num_threads(threads_for(wanted, sum(p.numel() for p in model.parameters())))
