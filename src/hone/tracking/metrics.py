"""The metrics of a run, written to metrics.csv and to every tracker that the configuration enables."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hone.config.metric_names import column_of
from hone.tracking.gpu_usage import GpuMonitor
from hone.tracking.metrics_csv import MetricTable
from hone.tracking.run_folder import RunFolder
from hone.tracking.trackers import Config, MlflowTracker, TensorBoardTracker, Tracker, WandbTracker

if TYPE_CHECKING:
    from hone.config.schema.run import LoggerConfig

LOGGER = logging.getLogger(__name__)


class MetricLog:
    """Writes metrics.csv always, and TensorBoard, W&B and MLflow when `logger` enables them.

    `resume_step` is the last step in the restored checkpoint, None for a new run; rows that an earlier process logged
    after it are dropped. `config` is stored with the run in W&B and MLflow. Raises ConfigError for an enabled tracker
    that is not installed.
    """

    def __init__(
        self, folder: RunFolder, logger: LoggerConfig, resume_step: int | None = None, config: Config = None
    ) -> None:
        self._trackers: list[Tracker] = []
        if logger.wandb_enabled:
            self._trackers.append(WandbTracker(folder, logger.wandb, resume_step, config))
        if logger.mlflow_enabled:
            self._trackers.append(MlflowTracker(folder, logger.mlflow, resume_step, config))
        if logger.tensorboard_enabled:
            self._trackers.append(TensorBoardTracker(folder.tensorboard, resume_step))
        self._table = MetricTable(folder.metrics, resume_step)
        self._gpu = GpuMonitor() if logger.monitor_gpus else None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one step's metrics; they are on disk when this returns. A step may be logged in several parts."""
        LOGGER.debug("step %d: %s", step, dict(metrics))
        metrics = {**metrics, **(self._gpu.metrics() if self._gpu is not None else {})}
        self._table.add(step, metrics)
        for tracker in self._trackers:
            tracker.log(step, metrics)

    def column_of(self, metric: str, latest: Mapping[str, float] | None = None) -> str:
        """The one column that a metric is read from in this run, `latest` being what is not logged yet."""
        return column_of(metric, [*self._table.measured(), latest or {}])

    def close(self) -> None:
        """Close everything. Safe after a failure in the middle of a run."""
        with contextlib.ExitStack() as stack:  # each is closed, whatever happens to another
            for tracker in self._trackers:
                stack.callback(tracker.close)
            stack.callback(self._table.close)
            if self._gpu is not None:
                stack.callback(self._gpu.close)

    def __enter__(self) -> MetricLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
