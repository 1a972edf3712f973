"""Resuming: automatically when workers are lost or nodes join, and only with unchanged settings."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import yaml

from hone.checkpoint.checkpoints import Checkpoints
from hone.checkpoint.manifest import verify
from hone.checkpoint.safe_reader import as_checkpoint_errors
from hone.config import TrainingConfig
from hone.config.resume_compat import changed_keys
from hone.config.schema import ROOTS
from hone.config.secrets import SECRETS
from hone.errors import CheckpointError, WorkerLostError


class MoreMachines(Exception):
    """Nodes that the run asked for have joined: it resumes from the checkpoint just written, with them."""


async def run_with_restarts(
    config: TrainingConfig, train: Callable[[bool], Awaitable[dict[str, Any]]], *, recovering: bool = False
) -> dict[str, Any]:
    """Call `train(recovering)` again, from the last checkpoint, each time workers are lost or nodes join.

    Raises WorkerLostError when workers were lost more than `cluster.max_restarts` times without a new checkpoint; it
    names the last one.
    """
    checkpoints = Checkpoints(config.checkpointing)
    lost, reached = 0, -1
    while True:
        try:
            return await train(recovering)
        except MoreMachines as news:
            print(news, file=sys.stderr, flush=True)
        except WorkerLostError as error:
            newest = (checkpoints.steps() or [0])[-1]
            lost = 1 if newest > reached else lost + 1
            reached = newest
            if lost > config.cluster.max_restarts or not config.checkpointing.enabled:
                raise WorkerLostError(f"{error}. {way_back(checkpoints)}") from error
            origin = f"step_{newest}" if newest else "the start"
            print(f"{error}\ngoing on from {origin} with new workers", file=sys.stderr, flush=True)
        recovering = True


def check_same_run(algorithm: str, settings: str, checkpoints: Checkpoints, path: Path) -> list[str]:
    """Keys of the resolved configuration `settings` of an algorithm that have changed since the checkpoint `path`.
    Raises CheckpointError for those that must not change."""
    verify(path, only="config.yaml", fallback=checkpoints.fallbacks(path))
    with as_checkpoint_errors(path / "config.yaml"):
        saved = SECRETS.hide_all(dict(yaml.safe_load((path / "config.yaml").read_text())))
    changed, bad = changed_keys(
        saved, yaml.safe_load(settings), ROOTS[algorithm]().model_dump(warnings=False)
    )
    if bad and not checkpoints.config.allow_config_change:
        raise CheckpointError(
            f"{path} was made with other settings ({'; '.join(bad[:6])}). For a new run set another "
            f"checkpointing.checkpoint_dir (or remove {checkpoints.root}); to go on with the changed "
            "settings set checkpointing.allow_config_change=true"
        )
    return changed


def way_back(checkpoints: Checkpoints) -> str:
    """Which checkpoints a failed run can resume from."""
    steps = checkpoints.steps() if checkpoints.config.enabled else []
    if not steps:
        return "No checkpoint had been written"
    text = f"The last checkpoint is {checkpoints.path(steps[-1])}"
    if len(steps) > 1:
        text += f"; should it be spoilt already, remove that folder to go back to step_{steps[-2]}"
    return text
