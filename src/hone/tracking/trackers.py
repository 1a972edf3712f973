"""Where metrics go besides the CSV: TensorBoard, Weights & Biases, MLflow. Each is imported on first use."""

from __future__ import annotations

import contextlib
import importlib
import socket
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from hone.config.secrets import SECRETS
from hone.errors import ConfigError, install_command
from hone.files import with_file_name, write_atomically
from hone.tracking.run_folder import RunFolder

if TYPE_CHECKING:
    from hone.config.schema.run import LoggerConfig


Config = Mapping[str, Any] | None
"""The run's configuration, which W&B and MLflow show beside it."""


class Tracker(Protocol):
    """Takes the metrics of a step."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoardTracker:
    """An event file, written by the record writer of the tensorboard package.

    Not by its EventFileWriter, whose thread raises a full disk's error where nothing can catch it, nor by
    torch.utils.tensorboard, which imports torch. A resumed run writes a session log at its first step, and readers drop
    what the killed process had written from that step on.
    """

    def __init__(self, folder: Path, resume_step: int | None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        earlier = folder.exists() and any(folder.iterdir())
        folder.mkdir(parents=True, exist_ok=True)
        # Readers take the files of a run in the order of their names.
        self._path = folder / f"events.out.tfevents.{time.time_ns():020d}.{socket.gethostname()}"
        self._writer = RecordWriter(open(self._path, "wb"))  # noqa: SIM115 (open as long as the run is)
        self._write(file_version="brain.Event:2")
        if earlier:
            first = 0 if resume_step is None else resume_step + 1
            self._write(step=first, session_log=SessionLog(status=SessionLog.START))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one scalar for each metric, under its own name."""
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._write(step=step, summary=self._summary(value=values))

    def close(self) -> None:
        """Close the event file. Every event is already in it."""
        with with_file_name(self._path):
            self._writer.close()

    def _write(self, **content: Any) -> None:
        with with_file_name(self._path):
            self._writer.write(self._event(wall_time=time.time(), **content).SerializeToString())
            self._writer.flush()


class WandbTracker:
    """One W&B run for each Hone run, however often it is resumed. W&B's own WANDB_MODE=offline works."""

    def __init__(self, folder: RunFolder, settings: Any, resume_step: int | None, config: Config) -> None:
        wandb = _optional("wandb")
        folder.logs.mkdir(parents=True, exist_ok=True)
        try:
            with _without_secrets():
                self._run = wandb.init(
                    project=settings.project,
                    name=settings.name or folder.path.name,
                    dir=str(folder.logs),
                    id=run_id(folder.logs / "wandb_run_id", resume_step),
                    resume="allow",
                    config=None if config is None else dict(config),
                )
        except wandb.Error as error:
            raise ConfigError(
                f"logger.wandb_enabled is true, but W&B refuses: {str(error).strip().rstrip('.')}. "
                "Log in with `wandb login`, or set the environment variable WANDB_MODE=offline"
            ) from error

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log one point of each metric. W&B ignores steps that it has seen, as a resumed run repeats some."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Finish the run, waiting for what is still to be sent."""
        self._run.finish()


class MlflowTracker:
    """One MLflow run for each Hone run, however often it is resumed."""

    def __init__(self, folder: RunFolder, settings: Any, resume_step: int | None, config: Config) -> None:
        self._mlflow = _optional("mlflow")
        self._seen = -1
        try:
            self._start(folder, settings, resume_step, config)
        except self._mlflow.exceptions.MlflowException as error:
            where = SECRETS.scrub(settings.tracking_uri or "its default store")
            why = SECRETS.scrub(str(error).strip().rstrip("."))
            raise ConfigError(
                f"logger.mlflow_enabled is true, but MLflow at {where} refuses: {why}. "
                "Point logger.mlflow.tracking_uri at a tracking server, or set logger.mlflow_enabled=false"
            ) from error

    def _start(self, folder: RunFolder, settings: Any, resume_step: int | None, config: Config) -> None:
        if settings.tracking_uri is not None:
            self._mlflow.set_tracking_uri(settings.tracking_uri)
        self._mlflow.set_experiment(settings.experiment_name)
        identity = folder.logs / "mlflow_run_id"
        if resume_step is not None and identity.exists():
            known = self._mlflow.start_run(run_id=identity.read_text().strip())
            self._seen = self._last_step(known)
            return
        run = self._mlflow.start_run(run_name=settings.run_name or folder.path.name)
        write_atomically(identity, run.info.run_id + "\n")
        if config is not None:
            self._mlflow.log_dict(dict(config), "config.yaml")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log one point of each metric, unless the run has the step already: MLflow would keep both."""
        if step > self._seen:
            self._mlflow.log_metrics(dict(metrics), step=step)

    def _last_step(self, run: Any) -> int:
        client, identity = self._mlflow.MlflowClient(), run.info.run_id
        points = (p for name in run.data.metrics for p in client.get_metric_history(identity, name))
        return max((point.step for point in points), default=-1)

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


@contextlib.contextmanager
def _without_secrets() -> Iterator[None]:
    """Mask secrets in sys.argv, since W&B stores and sends the command line."""
    previous = sys.argv
    sys.argv = [SECRETS.scrub(word) for word in previous]
    try:
        yield
    finally:
        sys.argv = previous


def run_id(path: Path, resume_step: int | None) -> str:
    """The id under which a service knows this run: kept in `path`, new when the run starts from nothing."""
    if resume_step is not None and path.exists():
        return path.read_text().strip()
    identity = uuid.uuid4().hex[:12]
    write_atomically(path, identity + "\n")
    return identity


def check_trackers(logger: LoggerConfig) -> None:
    """Raise ConfigError for a service that is enabled and not installed."""
    if logger.wandb_enabled:
        _optional("wandb")
    if logger.mlflow_enabled:
        _optional("mlflow")


def _optional(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        setting, install = f"logger.{module}_enabled", install_command(f"hone[{module}]")
        raise ConfigError(
            f"{setting} is true, but {module} is not installed: {install}, or set {setting}=false"
        ) from error
