"""A learner's weights and optimizer on disk (PyTorch DCP), and their checksum."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from hone.checkpoint.random_state import random_state, restore_random_state
from hone.checkpoint.safe_reader import Planner, Reader, own_error, read_state, understood
from hone.engine.distributed.collectives import local_tensor
from hone.engine.local.optimizer import build_optimizer, build_scheduler
from hone.errors import CheckpointError, TrainingError
from hone.model.adapters import NAME
from hone.model.counter_rng import GOLDEN
from hone.model.loading import not_finite
from hone.model.quantized import is_quantized

if TYPE_CHECKING:
    from hone.engine.local.learner import LocalLearner

FLAT = StateDictOptions(flatten_optimizer_state_dict=True)
WRITERS: dict[int, ThreadPoolExecutor] = {}
"""By process (a fork has no threads), one thread: what ranks say to each other about several learners' files is said in
the same order by all."""


FACTORS = (torch.arange(1, 4097) * GOLDEN >> 32).to(torch.int32) | 1
"""By the place in a row of words: odd, so that none hides a bit."""
ROWS_AT_ONCE = 1024


def named_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and persistent buffers by name; a tensor that two names share comes once."""
    once = {name for name, _ in model.named_parameters()}
    others = {name for name, _ in model.named_parameters(remove_duplicate=False)} - once
    for name, tensor in model.state_dict().items():
        if name not in others:
            yield name, tensor


def kept_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Those that a checkpoint holds: of a model whose base is in 4 bits, which is read from its own source again, what
    is trained; else all."""
    trained = (
        {name for name, p in model.named_parameters() if p.requires_grad} if is_quantized(model) else None
    )
    return ((n, tensor) for n, tensor in named_weights(model) if trained is None or n in trained)


def checksum(weights: Iterable[tuple[str, Tensor]]) -> int:
    """A 64-bit sum over the bits of all weights, each times a factor of its place: equal weights have equal sums,
    whatever device holds them, and weights that have changed places have not."""
    total = 0
    for index, (_, tensor) in enumerate(weights, start=1):
        total += (2 * index + 1) * _checksum_of(tensor)
    return total & 0xFFFF_FFFF_FFFF_FFFF


def _checksum_of(tensor: Tensor) -> int:
    """Sums of rows of words times odd factors (modulo 2^32), each times one of its own (modulo 2^64)."""
    raw = tensor.detach().contiguous().flatten().view(torch.uint8)
    words = raw.view(torch.int32) if raw.numel() % 4 == 0 else raw.to(torch.int32)
    factors = FACTORS.to(words.device)
    whole = words.numel() // len(FACTORS) * len(FACTORS)
    rows = words[:whole].reshape(-1, len(FACTORS)).split(ROWS_AT_ONCE)
    sums = [(part * factors).sum(1, dtype=torch.int64) for part in rows]
    rest = words[whole:]
    sums.append((rest * factors[: len(rest)]).sum(dtype=torch.int64)[None])
    sums_R = torch.cat(sums)
    return int((sums_R * ((torch.arange(len(sums_R), device=words.device) + 1) * GOLDEN | 1)).sum())


def save(learner: LocalLearner, path: Path, *, with_optimizer: bool, wait: bool) -> Future[None]:
    """DCP shards below `path`: `weights/`, and the optimizer's, schedule's and loss scale's state in `optimizer/`.

    Without `wait` the state is copied, where host memory has room, and written on a thread: the learner may go on.
    `model/` holds the model's own config, so that a conversion needs nothing but the checkpoint. Raises TrainingError
    for weights that are not finite: no run can go on from them, and they might take a good checkpoint's place.
    """
    ranks = learner.ranks
    spoilt = not_finite((name, local_tensor(weight)) for name, weight in named_weights(learner.model))
    if bad := ranks.all_gather_objects([spoilt] if spoilt is not None else []):
        spoilt = bad[0]
        raise TrainingError(
            f"weight {spoilt} holds nan or infinity after update {learner.updates}: nothing was saved. "
            "Lower policy.optimizer.kwargs.lr"
        )
    if ranks.is_first:
        learner.model.config.save_pretrained(path / "model")
        if (adapters := getattr(learner.model, "peft_config", None)) is not None:
            adapters[NAME].save_pretrained(str(path / "model"))
        if (
            generation := getattr(learner.model, "generation_config", None)
        ) is not None:  # a scalar head has none
            generation.to_json_file(path / "model" / "generation_config.json")
    states: dict[Path, dict[str, Any]] = {path / "weights": dict(kept_weights(learner.model))}
    if with_optimizer:
        (path / "optimizer").mkdir(parents=True, exist_ok=True)
        if ranks.is_first:
            torch.save(_small_state(learner), path / "optimizer" / "schedule.pt")
        if ranks.mesh is not None:  # one process's generators are the run's own, which saves them
            own = {"ranks": dist.get_world_size(), "random": random_state()}
            torch.save(own, path / "optimizer" / f"random_{dist.get_rank()}.pt")
        if learner.optimizer.state:
            states[path / "optimizer"] = get_optimizer_state_dict(
                learner.model, learner.optimizer, options=FLAT
            )
    group = ranks.mesh.files if ranks.mesh is not None else None
    if wait or not _room_for_copies(states.values()):
        done: Future[None] = Future()
        _write(states, group)
        done.set_result(None)
        return done
    copies = {folder: BlockingAsyncStager().stage(state) for folder, state in states.items()}
    writer = WRITERS.setdefault(os.getpid(), ThreadPoolExecutor(1, thread_name_prefix="checkpoint"))
    return writer.submit(_write, copies, group)


def _room_for_copies(states: Iterable[dict[str, Any]]) -> bool:
    """Whether this machine has memory for a copy of what its ranks (four or fewer of them, of this size) hold."""
    held = sum(
        local_tensor(value).nbytes for state in states for value in state.values() if torch.is_tensor(value)
    )
    return 4 * held < psutil.virtual_memory().available


def load(learner: LocalLearner, path: Path, *, with_optimizer: bool) -> None:
    """The inverse of `save`, bit for bit."""
    read_weights(learner.model, path / "weights")
    if not with_optimizer:
        return
    if not (path / "optimizer").is_dir():
        raise CheckpointError(
            f"{path} holds no optimizer state (checkpointing.save_optimizer was false), so the run cannot resume "
            "from it. Convert it and start a new run from the weights: hone convert"
        )
    small = read_state(path / "optimizer" / "schedule.pt")
    with understood(path / "optimizer"):
        _restore_training(learner, path, small)


def _restore_training(learner: LocalLearner, path: Path, small: dict[str, Any]) -> None:
    """The optimizer, the schedule and the random generators, as they were."""
    if small["param_groups"] is not None:
        learner.optimizer.load_state_dict({"state": {}, "param_groups": small["param_groups"]})
    else:
        state = get_optimizer_state_dict(learner.model, learner.optimizer, options=FLAT)
        fill(state, path / "optimizer")
        set_optimizer_state_dict(learner.model, learner.optimizer, state, options=FLAT)
    learner.updates = small["updates"]
    if learner.rank_schedule is not None:
        if small.get("ranks") is None:
            raise CheckpointError(f"{path} was not made with AdaLoRA, as policy.lora.adalora.enabled says")
        learner.rank_schedule.load_state_dict(small["ranks"])
    _restore_random(learner, path / "optimizer")
    if small["scaler"] and learner.scaler.is_enabled():
        learner.scaler.load_state_dict(small["scaler"])
    if small["settings"] != _settings(learner):
        _apply_settings(learner)
    elif learner.scheduler is not None:
        learner.scheduler.load_state_dict(small["scheduler"])


def _restore_random(learner: LocalLearner, folder: Path) -> None:
    """This rank's random generators (dropout), as they were. Another number of ranks has none to go on with."""
    file = folder / f"random_{dist.get_rank()}.pt" if learner.ranks.mesh is not None else None
    if file is not None and file.is_file():
        saved = read_state(file)
        if saved["ranks"] == dist.get_world_size():
            restore_random_state(saved["random"])


def read_weights(model: nn.Module, path: Path) -> None:
    """Fill a model from `weights/`."""
    fill(dict(kept_weights(model)), path)


def _small_state(learner: LocalLearner) -> dict[str, Any]:
    """What is no tensor of a parameter's size.

    `param_groups` stands for the whole optimizer while it has no state (before the first update; plain SGD): asking
    PyTorch for a state that is not there makes one, as if an update had been made.
    """
    return {
        "updates": learner.updates,
        "scheduler": learner.scheduler.state_dict() if learner.scheduler is not None else {},
        "scaler": learner.scaler.state_dict(),
        "settings": _settings(learner),
        "ranks": learner.rank_schedule.state_dict() if learner.rank_schedule is not None else None,
        "param_groups": None if learner.optimizer.state else learner.optimizer.state_dict()["param_groups"],
    }


def _settings(learner: LocalLearner) -> dict[str, Any]:
    """What the optimizer's and the schedule's hyperparameters came from."""
    return learner.policy.model_dump(include={"optimizer", "scheduler"})


def _apply_settings(learner: LocalLearner) -> None:
    """Hyperparameters and schedule as they are configured now, where they would stand after `updates` updates.

    A checkpoint holds those that it was made with: without this a learning rate changed for the rest of a run
    (checkpointing.allow_config_change) would not be heard.
    """
    optimizer = learner.optimizer
    fresh = build_optimizer(learner.policy, learner.model.parameters())
    for group, configured in zip(optimizer.param_groups, fresh.param_groups, strict=True):
        group.pop("initial_lr", None)
        group.update({name: value for name, value in configured.items() if name != "params"})
    learner.scheduler = scheduler = build_scheduler(learner.policy, optimizer)
    if scheduler is None:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch misses the optimizer's steps, which were made before
        for _ in range(learner.updates):
            scheduler.step()


def _write(states: Mapping[Path, dict[str, Any]], group: dist.ProcessGroup | None) -> None:
    with warnings.catch_warnings():
        # DCP notes that one process saves without a process group: it is meant.
        warnings.simplefilter("ignore")
        for folder, state in states.items():
            dcp.save(state, checkpoint_id=str(folder), process_group=group, no_dist=group is None)


def fill(state: dict[str, Any], path: Path) -> None:
    """Read what a folder holds into the tensors of `state`, in place."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.load(state, storage_reader=Reader(path), planner=Planner(), no_dist=not dist.is_initialized())
    except (CheckpointException, OSError, ValueError, RuntimeError, KeyError) as error:
        if (cause := own_error(error)) is not None:
            raise cause from error
        text = str(error).strip() or repr(error)
        raise CheckpointError(
            f"{path} does not fit this model or is damaged: {text.splitlines()[-1]}"
        ) from error
