"""What both loops share: the run's folder, resuming, stopping, checkpoints, metrics, progress.

A loop's body is what is its own; everything that must not differ between algorithms is here.
"""

from __future__ import annotations

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

from hone.checkpoint.checkpoints import Checkpoints, Saved
from hone.checkpoint.random_state import random_state, restore_random_state
from hone.checkpoint.safe_reader import understood
from hone.config import Loaded, TrainingConfig
from hone.config.resume_compat import GOAL_KEYS
from hone.config.schema.roots import section_of
from hone.engine import Engine
from hone.errors import HoneError, Interrupted, TrainingError, WorkerLostError
from hone.planning.placement import placement_notices
from hone.report import draw_run
from hone.tracking import MetricLog, Progress, RunFolder
from hone.tracking.run_info import write_end, write_start
from hone.training.process import can_handle_signals
from hone.training.recovery import MoreMachines, check_same_run, way_back

ONE_SIGNAL_S = 0.1
"""The same signal twice within this time is one: a scheduler sends it to all processes, and the command passes it."""


class Cursor(Protocol):
    """Where a run stands in its data."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class TrainingRun:
    """One training run, from its start or from its last checkpoint to its end.

    run = Run(loaded, "sft", total_steps=..., parts=..., data=..., tokenizer=..., engine=...)
    await run.resume()
    if run.finished:
        return run.summary()
    with run:
        for step in run.steps():
            ...
            await run.end_step(step, metrics, tokens=...)
    return run.summary()
    """

    def __init__(
        self,
        loaded: Loaded,
        kind: str,
        *,
        total_steps: int,
        parts: Mapping[str, Saved],
        data: Cursor,
        tokenizer: Any,
        engine: Engine,
    ) -> None:
        config: TrainingConfig = loaded.config
        self.config, self.kind, self.total_steps = config, kind, total_steps
        self.parts, self.data, self.tokenizer, self.engine = parts, data, tokenizer, engine
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
        self._signal = 0
        self._saved_step = self._first_step = 0
        self._noted: set[str] = set()

    async def resume(self) -> None:
        """Go to the state of the newest checkpoint, if there is one.

        Raises CheckpointError when that run had other settings, or its files are damaged.
        """
        self.checkpoints.tidy()
        steps = self.checkpoints.steps() if self.config.checkpointing.enabled else []
        if steps:
            self.step = self._saved_step = self._first_step = steps[-1]
            changed = check_same_run(self.kind, self.yaml, self.checkpoints, self.checkpoints.path(self.step))
            if self.finished:  # nothing will be done with it, so nothing needs to be loaded
                self.latest = self.checkpoints.metrics(self.step)
                return
            state = await self.checkpoints.load(self.step, self.parts)
            with understood(self.checkpoints.path(self.step) / "state.pt"):
                self.data.load_state_dict(state["data"])
                restore_random_state(state["random"])
            self.latest = self.checkpoints.metrics(self.step)
            if not any(key.endswith(GOAL_KEYS) for key in changed):
                self.stop_reason = self._goal = state.get("goal")
        if not self.finished:
            self.folder.write_config(self.yaml)

    @property
    def finished(self) -> bool:
        """Whether the checkpoint that was loaded is the end of the run: then there is nothing to do or to write."""
        return self.step > 0 and (self.step >= self.total_steps or self._goal is not None)

    def __enter__(self) -> TrainingRun:
        self.folder.forget_samples_after(self.step)
        self.metrics = MetricLog(
            self.folder, self.config.logger, self.step or None, yaml.safe_load(self.yaml)
        )
        heard = (signal.SIGINT, signal.SIGTERM) if can_handle_signals() else ()
        self._handlers = {kind: signal.signal(kind, self._on_signal) for kind in heard}
        self.progress = Progress(self.total_steps, self.kind, self.step)
        self.progress.__enter__()
        notices = (*self.notices, *placement_notices(self.config), *self.engine.notices)
        self.note_all(notices)
        if self.step:
            self.progress.note(f"resumed from {self.checkpoints.path(self.step)}")
        write_start(
            self.folder, algorithm=self.kind, total_steps=self.total_steps, step=self.step, notices=notices
        )
        self._step_started = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave_checkpoint(error)
        self.progress.__exit__(kind, error, trace)
        # A disk that is full is full here, too: what went wrong first is what is to be told.
        with contextlib.suppress(OSError) if error is not None else contextlib.nullcontext():
            self.metrics.close()
            write_end(self.folder, step=self.step, stopped=self.stop_reason, error=error)
        if self.step:
            for problem in draw_run(self.folder, f"{self.kind}: {self._title()}"):
                print(problem, file=sys.stderr, flush=True)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if isinstance(error, TrainingError):
            raise TrainingError(f"{error}. {way_back(self.checkpoints)}") from error

    def _leave_checkpoint(self, error: BaseException | None) -> None:
        """The checkpoint that is being written is waited for, unless those who write it are lost or the user will not
        wait. What went wrong first is what is to be told."""
        if isinstance(error, WorkerLostError | Interrupted | KeyboardInterrupt):
            self.checkpoints.give_up()
            return
        with contextlib.suppress(HoneError, OSError) if error is not None else contextlib.nullcontext():
            self._tell(self.checkpoints.finish_write())

    def steps(self) -> Iterator[int]:
        """The steps still to do. Ends early when something asked the run to stop."""
        while self.step < self.total_steps and self.stop_reason is None:
            yield self.step + 1

    def note_all(self, texts: Iterable[str]) -> None:
        """Tell each of these above the progress line."""
        for text in texts:
            self.progress.note(text)

    def note_once(self, about: str, text: str) -> None:
        """Tell something above the progress line, the first time that there is something about it."""
        if about not in self._noted:
            self._noted.add(about)
            self.progress.note(text)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record metrics of a step and remember the latest value of each."""
        self.latest.update(metrics)
        self.metrics.log(step, dict(metrics))

    def log_before_training(self, metrics: Mapping[str, float]) -> None:
        """Record the held-out metrics of the weights that the run begins with, as step 0."""
        self.log(0, metrics)
        self.progress.before_training(metrics)

    async def end_step(self, step: int, metrics: Mapping[str, float], *, tokens: int) -> None:
        """Record a finished step; save when it is time to; stop when something asked for it."""
        metrics = {**metrics, **await self.engine.usage()}
        if self.engine.ranks > 1 and "tokens_per_s" in metrics:
            metrics["tokens_per_s_per_device"] = metrics["tokens_per_s"] / self.engine.ranks
        self._tell(self.checkpoints.done())
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
            saved = (
                f"saved {self.checkpoints.path(step)}; run the same command to go on"
                if settings.enabled
                else ("nothing was saved (checkpointing.enabled=false)")
            )
            raise Interrupted(f"stopped after step {step}: {saved}")

    async def finish(self) -> None:
        """Save the end of the run, unless its last step was saved."""
        if self.config.checkpointing.enabled and self.step:
            await self.save()

    def stop(self, reason: str) -> None:
        """End the run after this step, saving it: its goal is reached, and the same command will not go on."""
        self.stop_reason = self._goal = reason

    async def save(self, *, wait: bool = True) -> None:
        """Write a checkpoint of the present step, once; without `wait` while training goes on."""
        if self._saved_step != self.step:
            self._saved_step = self.step
            self._tell(self.checkpoints.finish_write())
            ranked_by = self.config.checkpointing.metric_name
            await self.checkpoints.begin(
                self.step,
                self.parts,
                tokenizer=self.tokenizer,
                state={"data": self.data.state_dict(), "random": random_state(), "goal": self._goal},
                metrics=self._of_step,
                ranked_by=None if ranked_by is None else self.metrics.column_of(ranked_by),
                config_yaml=self.yaml,
                wait=wait,
            )
        if wait:
            self._tell(self.checkpoints.finish_write())

    def _tell(self, saved: Path | None) -> None:
        if saved is not None:
            self.progress.note(f"saved {saved}")

    def summary(self) -> dict[str, Any]:
        """How the run ended."""
        return {
            "step": self.step,
            "total_steps": self.total_steps,
            "stopped": self.stop_reason,
            "message": self._finished_message() if self.finished and self.step == self._first_step else None,
            "seconds": round(time.monotonic() - self._started, 2),
            "folder": str(self.folder.path),
            "metrics": self.latest,
        }

    def _finished_message(self) -> str:
        reached = f": {self._goal}" if self._goal is not None else ""
        more = (
            f"{section_of(self.kind)}.{GOAL_KEYS[1]}"
            if self._goal is not None
            else f"{section_of(self.kind)}.max_num_steps or max_num_epochs"
        )
        return (
            f"{self.folder.path} is a finished run (step {self.step} of {self.total_steps}{reached}); nothing was "
            f"changed. To train it further raise {more}; for a new run name another checkpointing.checkpoint_dir"
        )

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted is not None:
            if number == self._signal and time.monotonic() - self._interrupted < ONE_SIGNAL_S:
                return
            raise Interrupted(
                f"stopped at once, in step {self.step + 1}: the last checkpoint stands; run the same command to go on"
            )
        self._interrupted, self._signal = time.monotonic(), number
        with contextlib.suppress(RuntimeError):  # the signal came while this very line was being written
            self.progress.note("stopping: this step is finished and saved first (Ctrl-C again stops at once)")

    def _time_of_next_save(self) -> float:
        """Seconds after the start at which a further step would have been saved, if it is as slow as the slowest."""
        return time.monotonic() - self._started + self._slowest_step + 2 * self.checkpoints.slowest

    def _parse_deadline(self) -> float | None:
        text = self.config.checkpointing.checkpoint_must_save_by
        if text is None:
            return None
        days, hours, minutes, seconds = (int(part) for part in text.split(":"))
        return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)

    def _title(self) -> str:
        return os.path.basename(self.config.policy.model_name.rstrip("/"))
