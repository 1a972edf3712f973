"""How many threads a process's tensor operations get."""

from __future__ import annotations

import os

import torch

SMALL_MODEL = 10_000_000
"""Below so many parameters one thread is as fast as several: waiting for each other costs what sharing gains."""


def threads_for(wanted: int | None, parameters: int, *, sharers: int = 1) -> int:
    """Threads of a process's tensor operations: `cluster.cpu_threads`, else what OMP_NUM_THREADS said to torch,
    else one for a small model and for a larger one all cores, which as many processes share."""
    if wanted is not None:
        return wanted
    if "OMP_NUM_THREADS" in os.environ:
        return torch.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if parameters < SMALL_MODEL else max(1, cores // sharers)


def set_threads(wanted: int | None, model: torch.nn.Module) -> None:
    """Give torch the threads that a model is best served by."""
    torch.set_num_threads(threads_for(wanted, sum(p.numel() for p in model.parameters())))
