"""Save and load a learner's state: weights, optimizer, schedule, loss scale and random generators."""

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
from hone.checkpoint.safe_reader import as_checkpoint_errors, read_state
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
    """The attributes of a learner that are saved, restored or checked here."""

    model: PreTrainedModel
    policy: ModelConfig
    ranks: RankGroup
    updates: int
    optimizer: Optimizer
    scheduler: LRScheduler | None
    scaler: torch.amp.GradScaler
    rank_schedule: RankSchedule | None


def save(learner: CheckpointedLearner, path: Path, *, with_optimizer: bool, wait: bool) -> Future[None]:
    """Write `weights/` (DCP), `model/` (the model's config, so that a conversion needs no other file) and, with
    `with_optimizer`, `optimizer/` (states of the optimizer, the schedule and the loss scale) below `path`.

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
        if ranks.mesh is not None:  # without a mesh, the run itself saves the random generators
            own = {"ranks": dist.get_world_size(), "random": random_state()}
            torch.save(own, path / "optimizer" / f"random_{dist.get_rank()}.pt")
        if learner.optimizer.state:
            states[path / "optimizer"] = get_optimizer_state_dict(
                learner.model, learner.optimizer, options=FLAT
            )
    return write_states(states, ranks.mesh.files if ranks.mesh is not None else None, wait=wait)


def load(learner: CheckpointedLearner, path: Path, *, with_optimizer: bool) -> None:
    """Restore the state that `save` wrote, bit for bit. Raises CheckpointError if it does not fit the run."""
    read_weights(learner.model, path / "weights")
    if not with_optimizer:
        return
    if not (path / "optimizer").is_dir():
        raise CheckpointError(
            f"{path} holds no optimizer state (checkpointing.save_optimizer was false), so the run cannot resume "
            "from it. Convert it and start a new run from the weights: hone convert"
        )
    small = read_state(path / "optimizer" / "schedule.pt")
    with as_checkpoint_errors(path / "optimizer"):
        _restore_training(learner, path, small)


def _restore_training(learner: CheckpointedLearner, path: Path, small: dict[str, Any]) -> None:
    """Restore the optimizer, the schedule and the random generators."""
    if small["param_groups"] is not None:
        learner.optimizer.load_state_dict({"state": {}, "param_groups": small["param_groups"]})
    else:
        state = get_optimizer_state_dict(learner.model, learner.optimizer, options=FLAT)
        read_into(state, path / "optimizer")
        set_optimizer_state_dict(learner.model, learner.optimizer, state, options=FLAT)
    learner.updates = small["updates"]
    if learner.rank_schedule is not None:
        if small.get("ranks") is None:
            raise CheckpointError(
                f"policy.lora.adalora.enabled is true, but {path} was written by a run without AdaLoRA"
            )
        learner.rank_schedule.load_state_dict(small["ranks"])
    _restore_random(learner, path / "optimizer")
    if small["scaler"] and learner.scaler.is_enabled():
        learner.scaler.load_state_dict(small["scaler"])
    if small["settings"] != _settings(learner):
        _apply_settings(learner)
    elif learner.scheduler is not None:
        learner.scheduler.load_state_dict(small["scheduler"])


def _restore_random(learner: CheckpointedLearner, folder: Path) -> None:
    """Restore this rank's random generators (dropout). With another number of ranks they start anew."""
    file = folder / f"random_{dist.get_rank()}.pt" if learner.ranks.mesh is not None else None
    if file is not None and file.is_file():
        saved = read_state(file)
        if saved["ranks"] == dist.get_world_size():
            restore_random_state(saved["random"])


def _small_state(learner: CheckpointedLearner) -> dict[str, Any]:
    """All state except the tensors of parameters' sizes.

    While the optimizer has no state (before the first update; plain SGD), only its `param_groups` are saved: PyTorch
    creates a missing state when it is asked for it, as if an update had been made.
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
    """The settings of the optimizer and the schedule."""
    return learner.policy.model_dump(include={"optimizer", "scheduler"})


def _apply_settings(learner: CheckpointedLearner) -> None:
    """Use the configured hyperparameters, and advance the configured schedule to `learner.updates`.

    A checkpoint holds the settings that it was written with. Without this, a learning rate changed for the rest of a
    run (checkpointing.allow_config_change) would have no effect.
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
        warnings.simplefilter("ignore")  # torch warns because these steps follow no optimizer step
        for _ in range(learner.updates):
            scheduler.step()
