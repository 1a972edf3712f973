"""A learner's state on disk: weights, optimizer, schedule, loss scale and random generators."""

from __future__ import annotations

import warnings
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel

from hone.checkpoint.io import read_into, read_weights, write_states
from hone.checkpoint.random_state import random_state, restore_random_state
from hone.checkpoint.safe_reader import read_state, refusing_misfits
from hone.config.schema import ModelConfig
from hone.engine.distributed.collectives import RankGroup, local_tensor
from hone.engine.local.adalora import RankSchedule
from hone.engine.local.optimizer import build_optimizer, build_scheduler
from hone.errors import CheckpointError, TrainingError
from hone.model.adapters import NAME
from hone.model.loading import not_finite
from hone.model.weights import checkpointed_weights, named_weights

FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


class CheckpointedLearner(Protocol):
    """The parts of a learner that a checkpoint holds, or that it was made with."""

    model: PreTrainedModel
    policy: ModelConfig
    ranks: RankGroup
    updates: int
    optimizer: Optimizer
    scheduler: LRScheduler | None
    scaler: torch.amp.GradScaler
    rank_schedule: RankSchedule | None


def save(learner: CheckpointedLearner, path: Path, *, with_optimizer: bool, wait: bool) -> Future[None]:
    """Write `weights/` (DCP), `model/` (the model's own config, so that a conversion needs nothing else) and, with
    `with_optimizer`, `optimizer/` (states of the optimizer, the schedule, the loss scale) below `path`.

    Without `wait` the tensors are written on a thread (`write_states`). Raises TrainingError for weights that are not
    finite: no run can resume from them, and they might replace a good checkpoint.
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
        generation = getattr(learner.model, "generation_config", None)  # a scalar head has none
        if generation is not None:
            generation.to_json_file(path / "model" / "generation_config.json")
    states: dict[Path, dict[str, Any]] = {path / "weights": dict(checkpointed_weights(learner.model))}
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
    return write_states(states, ranks.mesh.files if ranks.mesh is not None else None, wait=wait)


def load(learner: CheckpointedLearner, path: Path, *, with_optimizer: bool) -> None:
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
    with refusing_misfits(path / "optimizer"):
        _restore_training(learner, path, small)


def _restore_training(learner: CheckpointedLearner, path: Path, small: dict[str, Any]) -> None:
    """The optimizer, the schedule and the random generators, as they were."""
    if small["param_groups"] is not None:
        learner.optimizer.load_state_dict({"state": {}, "param_groups": small["param_groups"]})
    else:
        state = get_optimizer_state_dict(learner.model, learner.optimizer, options=FLAT)
        read_into(state, path / "optimizer")
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


def _restore_random(learner: CheckpointedLearner, folder: Path) -> None:
    """This rank's random generators (dropout), as they were. Another number of ranks has none to go on with."""
    file = folder / f"random_{dist.get_rank()}.pt" if learner.ranks.mesh is not None else None
    if file is not None and file.is_file():
        saved = read_state(file)
        if saved["ranks"] == dist.get_world_size():
            restore_random_state(saved["random"])


def _small_state(learner: CheckpointedLearner) -> dict[str, Any]:
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


def _settings(learner: CheckpointedLearner) -> dict[str, Any]:
    """What the optimizer's and the schedule's hyperparameters came from."""
    return learner.policy.model_dump(include={"optimizer", "scheduler"})


def _apply_settings(learner: CheckpointedLearner) -> None:
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
