"""Going on by itself when workers are lost, or machines come."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

from hone.config import OnlineConfig, SFTConfig
from hone.engine.checkpoint import Checkpoints
from hone.errors import WorkerLostError


class MoreMachines(Exception):
    """Machines have come that a run asked for: it goes on from the checkpoint just written, with them."""


async def keep_going(
    config: SFTConfig | OnlineConfig,
    train: Callable[[bool], Awaitable[dict[str, Any]]],
    *,
    recovering: bool = False,
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
