"""What both loops share: the run's folder, resuming, stopping, checkpoints, metrics, progress.

A loop's body is what is its own; everything that must not differ between algorithms is here.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import yaml

from hone.config import GRPOConfig, Loaded, SFTConfig
from hone.engine.checkpoint import Checkpoints, Saved, flat_metric, random_state, restore_random_state
from hone.errors import CheckpointError, Interrupted
from hone.tracking import MetricLog, Progress, RunFolder, draw_curves

FREE_TO_CHANGE = ("checkpointing", "logger", "cluster")
"""Sections that do not alter what a run computes: a resumed run may have them otherwise."""
FREE_KEYS = ("max_num_steps", "max_num_epochs", "val_period", "val_at_start", "val_at_end", "val_start_at")


class Cursor(Protocol):
    """Where a run stands in its data."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Run:
    """One training run, from its start or from its last checkpoint to its end.

        run = Run(loaded, "sft", total_steps=..., parts=..., data=..., tokenizer=...)
        await run.resume()
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
    ) -> None:
        config: SFTConfig | GRPOConfig = loaded.config
        self.config, self.kind, self.total_steps = config, kind, total_steps
        self.parts, self.data, self.tokenizer = parts, data, tokenizer
        self.yaml = loaded.to_yaml()
        self.checkpoints = Checkpoints(config.checkpointing)
        self.folder = RunFolder(config.checkpointing.checkpoint_dir, config.logger.log_dir)
        self.step = 0
        self.latest: dict[str, float] = {}
        self.stop_reason: str | None = None
        self._started = time.monotonic()
        self._deadline = self._parse_deadline()
        self._interrupted = False
        self._saved_step = 0

    async def resume(self) -> None:
        """Go to the state of the newest checkpoint, if there is one.

        Raises CheckpointError when that run had other settings, or its files are damaged.
        """
        steps = self.checkpoints.steps() if self.config.checkpointing.enabled else []
        if steps:
            self.step = self._saved_step = steps[-1]
            self._check_same_run(self.checkpoints.path(self.step))
            state = await self.checkpoints.load(self.step, self.parts)
            self.data.load_state_dict(state["data"])
            restore_random_state(state["random"])
            self.latest = self.checkpoints.metrics(self.step)
        self.folder.write_config(self.yaml)

    def __enter__(self) -> Run:
        self._handlers = {kind: signal.signal(kind, self._on_signal) for kind in (signal.SIGINT, signal.SIGTERM)}
        self.metrics = MetricLog(self.folder, self.config.logger, self.step or None, yaml.safe_load(self.yaml))
        self.progress = Progress(self.total_steps, self.kind, self.step)
        self.progress.__enter__()
        if self.step:
            self.progress.note(f"resumed from {self.checkpoints.path(self.step)}")
        return self

    def __exit__(self, *exception: Any) -> None:
        self.progress.__exit__(*exception)
        self.metrics.close()
        for kind, handler in self._handlers.items():
            signal.signal(kind, handler)
        if self.step:
            draw_curves(self.folder.metrics, self.folder.curves, f"{self.kind}: {self._title()}")

    def steps(self) -> Iterator[int]:
        """The steps still to do. Ends early when something asked the run to stop."""
        while self.step < self.total_steps and self.stop_reason is None:
            yield self.step + 1

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record metrics of a step and remember the latest value of each."""
        self.latest.update(metrics)
        self.metrics.log(step, dict(metrics))

    async def end_step(self, step: int, metrics: Mapping[str, float], *, tokens: int) -> None:
        """Record a finished step; save when it is time to; stop when something asked for it."""
        self.step = step
        self.log(step, metrics)
        self.progress.update(step, {**metrics}, tokens)
        if self._interrupted:
            self.stop_reason = "interrupted"
        elif self._deadline is not None and time.monotonic() - self._started > self._deadline:
            self.stop_reason = "checkpoint_must_save_by"
        settings = self.config.checkpointing
        last = step >= self.total_steps or self.stop_reason is not None
        if settings.enabled and (last or step % settings.save_period == 0):
            await self.save()
        if self._interrupted:
            saved = f"saved {self.checkpoints.path(step)}; run the same command to go on" if settings.enabled else (
                "nothing was saved (checkpointing.enabled=false)"
            )
            raise Interrupted(f"stopped after step {step}: {saved}")

    async def finish(self) -> None:
        """Save the end of the run, unless its last step was saved."""
        if self.config.checkpointing.enabled and self.step:
            await self.save()

    def stop(self, reason: str) -> None:
        """End the run after this step, saving it."""
        self.stop_reason = reason

    async def save(self) -> None:
        """Write a checkpoint of the present step, once."""
        if self._saved_step == self.step:
            return
        path = await self.checkpoints.save(
            self.step,
            self.parts,
            tokenizer=self.tokenizer,
            state={"data": self.data.state_dict(), "random": random_state()},
            metrics=self.latest,
            config_yaml=self.yaml,
        )
        self._saved_step = self.step
        self.progress.note(f"saved {path}")

    def summary(self) -> dict[str, Any]:
        """How the run ended."""
        return {
            "step": self.step,
            "total_steps": self.total_steps,
            "stopped": self.stop_reason,
            "seconds": round(time.monotonic() - self._started, 2),
            "folder": str(self.folder.path),
            "metrics": self.latest,
        }

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted:
            raise Interrupted(
                f"stopped at once, in step {self.step + 1}: the last checkpoint stands; run the same command to go on"
            )
        self._interrupted = True
        self.progress.note("stopping: this step is finished and saved first (Ctrl-C again stops at once)")

    def _parse_deadline(self) -> float | None:
        text = self.config.checkpointing.checkpoint_must_save_by
        if text is None:
            return None
        days, hours, minutes, seconds = (int(part) for part in text.split(":"))
        return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)

    def _check_same_run(self, path: Path) -> None:
        if self.config.checkpointing.allow_config_change:
            return
        try:
            saved = yaml.safe_load((path / "config.yaml").read_text())
        except (OSError, yaml.YAMLError) as error:
            raise CheckpointError(f"checkpoint {path} is damaged: config.yaml cannot be read") from error
        changed = [
            f"{key}: {old!r} -> {new!r}"
            for key, old, new in _differences(saved, yaml.safe_load(self.yaml))
            if key.split(".")[0] not in FREE_TO_CHANGE and key.split(".")[-1] not in FREE_KEYS
        ]
        if changed:
            raise CheckpointError(
                f"{path} was made with other settings ({'; '.join(changed[:6])}). For a new run set another "
                f"checkpointing.checkpoint_dir (or remove {self.checkpoints.root}); to go on with the changed "
                "settings set checkpointing.allow_config_change=true"
            )

    def _title(self) -> str:
        return os.path.basename(self.config.policy.model_name.rstrip("/"))


def _differences(old: Any, new: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key))
    elif old != new:
        yield prefix, old, new


def best_metric_column(config: SFTConfig | GRPOConfig) -> str | None:
    """The column of metrics.csv that ranks this run's checkpoints."""
    name = config.checkpointing.metric_name
    return None if name is None else flat_metric(name)
