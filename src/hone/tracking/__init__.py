"""What a run leaves behind: its folder, metrics, progress line, curves and rollout log.

Nothing here imports torch, and matplotlib, tensorboard, wandb and mlflow load only when they are used:
importing this package must not delay a run's first step.
"""

from __future__ import annotations

from hone.tracking.activity import Activity, working
from hone.tracking.curves import draw_curves
from hone.tracking.metrics import MetricLog
from hone.tracking.progress import Progress
from hone.tracking.rollout_log import write_rollouts
from hone.tracking.run_folder import RunFolder
from hone.tracking.seeds_plot import draw_seeds
from hone.tracking.trackers import check_trackers

__all__ = [
    "Activity",
    "MetricLog",
    "Progress",
    "RunFolder",
    "check_trackers",
    "draw_curves",
    "draw_seeds",
    "working",
    "write_rollouts",
]
