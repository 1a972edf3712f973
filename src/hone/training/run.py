"""What both loops share: the run's folder, resuming, stopping, checkpoints, metrics, progress."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Protocol

import yaml

from hone.checkpoint.checkpoints import Checkpoints
from hone.checkpoint.random_state import random_state, restore_random_state
from hone.checkpoint.safe_reader import as_checkpoint_errors
from hone.config import Loaded, TrainingConfig
from hone.config.resume_compat import GOAL_KEYS
from hone.config.schema.roots import section_of
from hone.config.schema.training import AlgorithmSection
from hone.engine import Engine
from hone.errors import HoneError, Interrupted, TrainingError, WorkerLostError
from hone.planning.placement import placement_notices
from hone.report import draw_run
from hone.tracking import MetricLog, Progress, RunFolder
from hone.tracking.run_info import write_end, write_start
from hone.training.process import can_handle_signals
from hone.training.recovery import MoreMachines, check_same_run, way_back

ONE_SIGNAL_S = 0.1
"""The same signal twice within this time counts once: a scheduler sends it to all processes, and the command forwards
it."""


class Cursor(Protocol):
    """A position in the data."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def total_steps(section: AlgorithmSection, data: Any, batch: int) -> int:
    """Steps of the whole run, which draw `batch` rows each: the smaller of `max_num_steps` and those of the epochs."""
    epochs = [data.total_steps(batch)] if section.max_num_epochs is not None else []
    return min([*epochs, *([section.max_num_steps] if section.max_num_steps is not None else [])])


class TrainingRun:
    """One training run, from its start or from its last checkpoint to its end.

    run = TrainingRun(loaded, engine, data, total_steps=...)
    await run.resume()
    if run.is_complete:
        return run.summary()
    with run:
        for step in run.steps():
            ...
            await run.end_step(step, metrics, tokens=...)
    return run.summary()
    """

    def __init__(self, loaded: Loaded, engine: Engine, data: Cursor, *, total_steps: int) -> None:
        """`data`: whatever has the position in the data."""
        config: TrainingConfig = loaded.config
        self.config, self.algorithm, self.total_steps = config, loaded.algorithm, total_steps
        self.engine, self.data = engine, data
        self.yaml, self.notices = loaded.to_yaml(), loaded.notices
        self.checkpoints = Checkpoints(config.checkpointing)
        self.folder = RunFolder(config.checkpointing.checkpoint_dir, config.logger.log_dir)
        self.step = 0
        self.latest: dict[str, float] = {}
        self._of_step: dict[str, float] = {}
        self.stop_reason: str | None = None
        self._goal: str | None = None
        self._started = self._step_started = time.monotonic()
        self._slowest_step = 0.0
        self._deadline = self._parse_deadline()
        self._interrupted: float | None = None
        self._at_once: Interrupted | None = None
        self._signal = 0
        self._saved_step = self._first_step = 0
        self._noted: set[str] = set()
        self.changed_settings: list[str] = []
        """Keys that differ from those of the checkpoint that was restored."""

    async def resume(self) -> None:
        """Restore the newest checkpoint, if there is one.

        Raises CheckpointError if that run had other settings, or its files are damaged.
        """
        self.checkpoints.remove_incomplete()
        steps = self.checkpoints.steps() if self.config.checkpointing.enabled else []
        if steps:
            self.step = self._saved_step = self._first_step = steps[-1]
            newest = self.checkpoints.path(self.step)
            changed = check_same_run(self.algorithm, self.yaml, self.checkpoints, newest)
            self.changed_settings = changed
            if self.is_complete:  # no weight is needed
                self.checkpoints.prune()  # the process may have been killed just before it
                self.latest = self.checkpoints.metrics(self.step)
                return
            state = await self.checkpoints.load(self.step, self.engine.trained_models)
            with as_checkpoint_errors(self.checkpoints.path(self.step) / "state.pt"):
                self.data.load_state_dict(state["data"])
                restore_random_state(state["random"])
            self.checkpoints.prune()
            self.latest = self.checkpoints.metrics(self.step)
            if not any(key.endswith(GOAL_KEYS) for key in changed):
                self.stop_reason = self._goal = state.get("goal")
        if not self.is_complete:
            self.folder.write_config(self.yaml)

    @property
    def is_complete(self) -> bool:
        """Whether the checkpoint that was restored is the end of the run."""
        return self.step > 0 and (self.step >= self.total_steps or self._goal is not None)

    def __enter__(self) -> TrainingRun:
        self.folder.forget_samples_after(self.step)
        settings = yaml.safe_load(self.yaml)
        self.metrics = MetricLog(self.folder, self.config.logger, self.step or None, settings)
        signals = (signal.SIGINT, signal.SIGTERM) if can_handle_signals() else ()
        self._previous_handlers = {number: signal.signal(number, self._on_signal) for number in signals}
        self.progress = Progress(self.total_steps, self.algorithm, self.step)
        self.progress.__enter__()
        notices = (*self.notices, *placement_notices(self.config), *self.engine.notices)
        self.note_all(notices)
        if self.step:
            self.progress.note(f"resumed from {self.checkpoints.path(self.step)}")
        write_start(
            self.folder,
            algorithm=self.algorithm,
            total_steps=self.total_steps,
            step=self.step,
            notices=notices,
        )
        self._step_started = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, asyncio.CancelledError):  # how what awaits learns of a second signal
            error = self._at_once or error
        self._leave_checkpoint(error)
        self.progress.__exit__(kind, error, trace)
        # On a full disk this fails as well; the first error is the one to report.
        with contextlib.suppress(OSError) if error is not None else contextlib.nullcontext():
            self.metrics.close()
            write_end(self.folder, step=self.step, stopped=self.stop_reason, error=error)
        if self.step:
            for problem in draw_run(self.folder, f"{self.algorithm}: {self._title()}"):
                print(problem, file=sys.stderr, flush=True)
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        if isinstance(error, TrainingError):
            raise TrainingError(f"{error}. {way_back(self.checkpoints)}") from error

    def _leave_checkpoint(self, error: BaseException | None) -> None:
        """Wait for the checkpoint that is being written, unless its workers are lost or the user will not wait. The
        first error is the one to report."""
        if isinstance(error, WorkerLostError | Interrupted | KeyboardInterrupt):
            self.checkpoints.abort_save()
            return
        with contextlib.suppress(HoneError, OSError) if error is not None else contextlib.nullcontext():
            self._note_saved(self.checkpoints.wait_for_save())

    def steps(self) -> Iterator[int]:
        """The remaining steps. Ends early when the run is asked to stop."""
        while self.step < self.total_steps and self.stop_reason is None:
            yield self.step + 1

    def note_all(self, texts: Iterable[str]) -> None:
        """Print each text above the progress line."""
        for text in texts:
            self.progress.note(text)

    def note_once(self, about: str, text: str) -> None:
        """Print a text above the progress line, once for each `about`."""
        if about not in self._noted:
            self._noted.add(about)
            self.progress.note(text)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log metrics of a step and keep the latest value of each."""
        self.latest.update(metrics)
        self.metrics.log(step, dict(metrics))

    def log_before_training(self, metrics: Mapping[str, float]) -> None:
        """Log the held-out metrics of the initial weights, as step 0."""
        self.log(0, metrics)
        self.progress.before_training(metrics)

    async def end_step(self, step: int, metrics: Mapping[str, float], *, tokens: int) -> None:
        """Log a finished step; save a checkpoint if one is due; stop if asked to."""
        metrics = {**metrics, **await self.engine.usage()}
        if self.engine.ranks > 1 and "tokens_per_s" in metrics:
            metrics["tokens_per_s_per_device"] = metrics["tokens_per_s"] / self.engine.ranks
        self._note_saved(self.checkpoints.poll_save())
        self.step, self._of_step = step, dict(metrics)
        self.log(step, metrics)
        self.progress.update(step, {**metrics}, tokens)
        self._slowest_step = max(self._slowest_step, time.monotonic() - self._step_started)
        if self._interrupted is not None:
            self.stop_reason = "interrupted"
        elif self._deadline is not None and self._time_of_next_save() > self._deadline:
            self.stop_reason = "checkpoint_must_save_by"
        settings = self.config.checkpointing
        last = step >= self.total_steps or self.stop_reason is not None
        if settings.enabled and (last or step % settings.save_period == 0):
            more = not last and self.engine.can_grow()
            await self.save(wait=last or more or not settings.async_save)
            if more:
                raise MoreMachines(f"more machines after step {step}")
        self._step_started = time.monotonic()
        if self._interrupted is not None and step < self.total_steps:
            path = self.checkpoints.path(step)
            saved = f"saved {path}; run the same command to resume"
            saved = saved if settings.enabled else "nothing was saved (checkpointing.enabled=false)"
            raise Interrupted(f"stopped after step {step}: {saved}")

    async def finish(self) -> None:
        """Save the last step, unless it is saved already."""
        if self.config.checkpointing.enabled and self.step:
            await self.save()

    def end_at_goal(self, reason: str) -> None:
        """End the run after this step and save it. The goal is reached: the same command does not go on."""
        self.stop_reason = self._goal = reason

    async def save(self, *, wait: bool = True) -> None:
        """Write a checkpoint of the present step, once; without `wait`, in the background."""
        if self._saved_step != self.step:
            self._saved_step = self.step
            self._note_saved(self.checkpoints.wait_for_save())
            ranked_by = self.config.checkpointing.metric_name
            await self.checkpoints.begin_save(
                self.step,
                self.engine.trained_models,
                tokenizer=self.engine.tokenizer,
                state={"data": self.data.state_dict(), "random": random_state(), "goal": self._goal},
                metrics=self._of_step,
                ranked_by=None if ranked_by is None else self.metrics.column_of(ranked_by),
                config_yaml=self.yaml,
                wait=wait,
            )
        if wait:
            self._note_saved(self.checkpoints.wait_for_save())

    def _note_saved(self, saved: Path | None) -> None:
        if saved is not None:
            self.progress.note(f"saved {saved}")

    def summary(self) -> dict[str, Any]:
        """How the run ended."""
        return {
            "step": self.step,
            "total_steps": self.total_steps,
            "stopped": self.stop_reason,
            "message": self._complete_message()
            if self.is_complete and self.step == self._first_step
            else None,
            "seconds": round(time.monotonic() - self._started, 2),
            "folder": str(self.folder.path),
            "metrics": self.latest,
        }

    def _complete_message(self) -> str:
        section, goal = section_of(self.algorithm), self._goal
        reached = f": {goal}" if goal is not None else ""
        more = f"{section}.{GOAL_KEYS[1] if goal is not None else 'max_num_steps or max_num_epochs'}"
        return (
            f"{self.folder.path} is a finished run (step {self.step} of {self.total_steps}{reached}); nothing was "
            f"changed. To train it further raise {more}; for a new run name another checkpointing.checkpoint_dir"
        )

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted is not None:
            if number == self._signal and time.monotonic() - self._interrupted < ONE_SIGNAL_S:
                return
            self._at_once = Interrupted(
                f"stopped at once, in step {self.step + 1}: the last checkpoint is kept; run the same command to resume"
            )
            raise self._at_once
        self._interrupted, self._signal = time.monotonic(), number
        with contextlib.suppress(RuntimeError):  # the signal came while the progress line was being written
            self.progress.note("stopping: this step is finished and saved first (Ctrl-C again stops at once)")

    def _time_of_next_save(self) -> float:
        """Estimated time, in seconds after the start, at which another step would be saved."""
        return time.monotonic() - self._started + self._slowest_step + 2 * self.checkpoints.slowest

    def _parse_deadline(self) -> float | None:
        text = self.config.checkpointing.checkpoint_must_save_by
        if text is None:
            return None
        days, hours, minutes, seconds = (int(part) for part in text.split(":"))
        return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)

    def _title(self) -> str:
        return os.path.basename(self.config.policy.model_name.rstrip("/"))
