"""Going on: by itself when workers are lost or machines come, and only as the run that it was."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import yaml

from hone.checkpoint.checkpoints import Checkpoints
from hone.checkpoint.manifest import verify
from hone.checkpoint.safe_reader import understood
from hone.config import TrainingConfig
from hone.config.resume_compat import changed_keys
from hone.config.schema import ROOTS
from hone.config.secrets import SECRETS
from hone.errors import CheckpointError, WorkerLostError


class MoreMachines(Exception):
    """Machines have come that a run asked for: it goes on from the checkpoint just written, with them."""


async def run_with_restarts(
    config: TrainingConfig, train: Callable[[bool], Awaitable[dict[str, Any]]], *, recovering: bool = False
) -> dict[str, Any]:
    """`train(recovering)` from its last checkpoint again and again, while workers are lost and it gets on in between.

    Raises WorkerLostError when workers were lost more than `cluster.max_restarts` times without a new checkpoint.
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
                raise
            origin = f"step_{newest}" if newest else "the start"
            print(f"{error}\ngoing on from {origin} with new workers", file=sys.stderr, flush=True)
        recovering = True


def check_same_run(kind: str, settings: str, checkpoints: Checkpoints, path: Path) -> list[str]:
    """The keys of the resolved configuration `settings` of the command `kind` that have changed since the checkpoint
    `path` was written. Raises CheckpointError when they may not."""
    verify(path, only="config.yaml", fallback=checkpoints.before(path))
    with understood(path / "config.yaml"):
        saved = SECRETS.hide_all(dict(yaml.safe_load((path / "config.yaml").read_text())))
    changed, bad = changed_keys(saved, yaml.safe_load(settings), ROOTS[kind]().model_dump(warnings=False))
    if bad and not checkpoints.config.allow_config_change:
        raise CheckpointError(
            f"{path} was made with other settings ({'; '.join(bad[:6])}). For a new run set another "
            f"checkpointing.checkpoint_dir (or remove {checkpoints.root}); to go on with the changed "
            "settings set checkpointing.allow_config_change=true"
        )
    return changed


def way_back(checkpoints: Checkpoints) -> str:
    """Where a run that cannot go on stands."""
    steps = checkpoints.steps() if checkpoints.config.enabled else []
    if not steps:
        return "No checkpoint had been written"
    text = f"The last checkpoint is {checkpoints.path(steps[-1])}"
    if len(steps) > 1:
        text += f"; should it be spoilt already, remove that folder to go back to step_{steps[-2]}"
    return text
