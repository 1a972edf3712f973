"""Tensors in PyTorch's distributed checkpoint format (DCP): written at once or on a thread, read in place."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torch.distributed.tensor import DTensor

from hone.checkpoint.safe_reader import Planner, Reader, own_error
from hone.errors import CheckpointError
from hone.model.weights import checkpointed_weights

WRITERS: dict[int, ThreadPoolExecutor] = {}
"""One writing thread per process (a fork has no threads), so that all ranks write files in the same order."""
RANKS_PER_NODE = 4
"""Assumed number of ranks that copy their state into a node's free memory."""


def write_states(
    states: Mapping[Path, dict[str, Any]], group: dist.ProcessGroup | None, *, wait: bool
) -> Future[None]:
    """Write each state as a DCP folder; on a mesh each rank writes its shards, and `group` has all ranks.

    Without `wait` the state is copied, if it fits into host memory, and written on a thread.
    """
    if wait or not _has_room_for_copies(states.values()):
        done: Future[None] = Future()
        _write(states, group)
        done.set_result(None)
        return done
    copies = {folder: BlockingAsyncStager().stage(state) for folder, state in states.items()}
    writer = WRITERS.setdefault(os.getpid(), ThreadPoolExecutor(1, thread_name_prefix="checkpoint"))
    return writer.submit(_write, copies, group)


def _has_room_for_copies(states: Iterable[dict[str, Any]]) -> bool:
    held = sum(
        (value.to_local() if isinstance(value, DTensor) else value).nbytes
        for state in states
        for value in state.values()
        if torch.is_tensor(value)
    )
    return RANKS_PER_NODE * held < psutil.virtual_memory().available


def _write(states: Mapping[Path, dict[str, Any]], group: dist.ProcessGroup | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # DCP warns when a single process saves without a process group
        for folder, state in states.items():
            dcp.save(state, checkpoint_id=str(folder), process_group=group, no_dist=group is None)


def read_into(state: dict[str, Any], path: Path) -> None:
    """Read a DCP folder into the tensors of `state`, in place. Raises CheckpointError if it does not fit."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.load(state, storage_reader=Reader(path), planner=Planner(), no_dist=not dist.is_initialized())
    except (CheckpointException, OSError, ValueError, RuntimeError, KeyError) as error:
        if (cause := own_error(error)) is not None:
            raise cause from error
        text = (str(error).strip() or repr(error)).splitlines()[-1]
        raise CheckpointError(f"{path} does not fit this model or is damaged: {text}") from error


def read_weights(model: nn.Module, path: Path) -> None:
    """Fill a model from a checkpoint's `weights/`."""
    read_into(dict(checkpointed_weights(model)), path)
