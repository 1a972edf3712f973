"""Checkpoints of a run: `step_N/`, written under a temporary name and renamed, verified when read, pruned by a metric.

step_N/config.yaml        the resolved configuration
step_N/policy/weights/    DCP shards; policy/optimizer/; policy/tokenizer/
step_N/state.pt           data position and random generators
step_N/training_info.json the step and its metrics
step_N/manifest.json      size and CRC-32 of every other file, written last
"""

from __future__ import annotations

import json
import math
import os
import shutil
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch.distributed.checkpoint.api import CheckpointException

from hone.checkpoint.manifest import verify, write_manifest
from hone.checkpoint.safe_reader import own_error, read_state
from hone.config.schema import CheckpointingConfig
from hone.errors import CheckpointError
from hone.files import by_step, is_disk_full, sync
from hone.types import TrainedModel

NO_SPACE = 1 << 16
"""Free bytes below which a failed write is blamed on a full disk."""


class PendingCheckpoint:
    """A checkpoint that is being written: its state is copied, and its folder has a temporary name."""

    def __init__(self, final: Path, models: Mapping[str, TrainedModel]) -> None:
        self.final, self.models = final, models
        # A unique name: a rank of an abandoned worker group may still write into an earlier folder.
        self.temporary = final.with_name(f".writing_{final.name}_{uuid.uuid4().hex[:8]}")
        self.seconds = 0.0
        self.error: BaseException | None = None
        self._started = time.monotonic()
        self._aborted = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._commit, daemon=True, name="checkpoint")

    def commit(self, *, in_background: bool) -> None:
        """Wait for the models' files, then rename the folder; `in_background`: on a thread."""
        if in_background:
            self._thread.start()
        else:
            self._commit()

    def _commit(self) -> None:
        try:
            for model in self.models.values():
                model.wait_for_save()
            write_manifest(self.temporary)
            with self._lock:
                if not self._aborted:
                    remove(self.final)
                    os.replace(self.temporary, self.final)
                    sync(self.final.parent)
        except BaseException as error:  # raised by `Checkpoints.wait_for_save`
            self.error = error
        self.seconds = time.monotonic() - self._started

    @property
    def finished(self) -> bool:
        """Whether it is committed or has failed."""
        return not self._thread.is_alive()

    def join(self) -> None:
        """Return when it is `finished`."""
        if self._thread.ident is not None:
            self._thread.join()

    def abort(self) -> None:
        """Never rename the folder, unless that has happened already."""
        with self._lock:
            self._aborted = True


class Checkpoints:
    """The checkpoints below one folder."""

    def __init__(self, config: CheckpointingConfig) -> None:
        self.config = config
        self.root = Path(config.checkpoint_dir)
        self._pending: PendingCheckpoint | None = None
        self.slowest = 0.0
        """Longest time in seconds from `begin_save` to the rename."""

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, ascending. Incomplete ones have other names."""
        return list(by_step(self.root.glob("step_*")))

    def path(self, step: int) -> Path:
        return self.root / f"step_{step}"

    def fallbacks(self, path: Path) -> list[Path]:
        """The other checkpoints, oldest first."""
        return [self.path(step) for step in self.steps() if self.path(step) != path]

    def remove_incomplete(self) -> None:
        """Remove the folders with temporary names that a killed process left."""
        for left in (*self.root.glob(".writing_step_*"), *self.root.glob(".removing_*")):
            shutil.rmtree(left, ignore_errors=True)

    async def save(self, step: int, models: Mapping[str, TrainedModel], **content: Any) -> Path:
        """`begin_save`, and wait until it is committed."""
        await self.begin_save(step, models, **content, wait=True)
        path = self.wait_for_save()
        assert path is not None
        return path

    async def begin_save(
        self,
        step: int,
        models: Mapping[str, TrainedModel],
        *,
        tokenizer: Any,
        state: Mapping[str, Any],
        metrics: Mapping[str, float],
        ranked_by: str | None,
        config_yaml: str,
        wait: bool = False,
    ) -> None:
        """Copy the state of `step_N`. It is written under a temporary name and renamed, then checkpoints beyond
        `keep_top_k` are removed; on a thread, unless `wait`. One checkpoint is written at a time.

        `ranked_by`: which of the `metrics` of all checkpoints the best are chosen by; None: the newest are kept.
        Raises CheckpointError when it, or the one before, cannot be written; complete checkpoints are not touched.
        """
        self.wait_for_save()
        pending = PendingCheckpoint(self.path(step), models)
        folder = pending.temporary
        try:
            self.remove_incomplete()
            folder.mkdir(parents=True)
            (folder / "config.yaml").write_text(config_yaml)
            for name, model in models.items():
                await model.save(folder / name, wait=wait)
            tokenizer.save_pretrained(str(folder / "policy" / "tokenizer"))
            torch.save(dict(state), folder / "state.pt")
            info = {"step": step, "metrics": dict(metrics), "ranked_by": ranked_by}
            (folder / "training_info.json").write_text(json.dumps(info, indent=1))
        except BaseException as error:
            self._fail(pending, error)
        self._pending = pending
        pending.commit(in_background=not wait)

    def poll_save(self) -> Path | None:
        """The checkpoint that was committed since the last call, if any. Raises CheckpointError if it failed."""
        return self.wait_for_save() if self._pending is not None and self._pending.finished else None

    def wait_for_save(self) -> Path | None:
        """Wait for the pending checkpoint, if any, and return its folder. Raises CheckpointError if it failed."""
        if (pending := self._pending) is None:
            return None
        pending.join()
        self._pending = None
        if pending.error is not None:
            self._fail(pending, pending.error)
        self.slowest = max(self.slowest, pending.seconds)
        self.prune()
        return pending.final

    def abort_save(self) -> None:
        """Abort the pending checkpoint, if any: it is never committed."""
        if self._pending is not None:
            self._pending.abort()
            self._pending = None

    def _fail(self, pending: PendingCheckpoint, error: BaseException) -> NoReturn:
        full = is_disk_full(error) or _free_space(self.root) < NO_SPACE
        shutil.rmtree(pending.temporary, ignore_errors=True)
        if (cause := own_error(error)) is not None:
            raise cause from None
        if isinstance(error, OSError | CheckpointException | RuntimeError):
            raise self._cannot_write(pending.final, error, full) from error
        raise error

    async def load(self, step: int, models: Mapping[str, TrainedModel]) -> dict[str, Any]:
        """Restore `models` and return the saved state. Raises CheckpointError for damage, naming the file."""
        path = self.path(step)
        verify(path, fallback=self.fallbacks(path))
        for name, model in models.items():
            await model.load(path / name)
        return read_state(path / "state.pt")

    def metrics(self, step: int) -> dict[str, float]:
        """The metrics of `step_N`."""
        return dict(self._info(step).get("metrics", {}))

    def prune(self) -> None:
        """Keep the best `keep_top_k` by the metric that the latest was saved with (without one, the newest) and always
        the latest. A run that was killed before it did so does it when it is started again."""
        steps = self.steps()
        if self.config.keep_top_k is None or not steps:
            return
        info = self._info(steps[-1])
        if "ranked_by" not in info:  # damaged, or of a version that did not write it
            return
        order = self._ranked(steps, info["ranked_by"])
        order += [step for step in reversed(steps) if step not in order]
        for step in order[self.config.keep_top_k :]:
            if step != steps[-1]:
                remove(self.path(step))

    def _info(self, step: int) -> dict[str, Any]:
        try:
            return dict(json.loads((self.path(step) / "training_info.json").read_text()))
        except (OSError, ValueError, TypeError):
            return {}  # a damaged file ranks last; `load` raises its error

    def _ranked(self, steps: list[int], metric: str | None) -> list[int]:
        """The steps that have the metric, best first."""
        if metric is None:
            return []
        values = {step: self.metrics(step).get(metric) for step in steps}
        sign = -1.0 if self.config.higher_is_better else 1.0
        known = {step: value for step, value in values.items() if value is not None and not math.isnan(value)}
        return sorted(known, key=lambda step: (sign * known[step], -step))

    def _cannot_write(self, final: Path, error: BaseException, full: bool) -> CheckpointError:
        steps = self.steps()
        last = f"the last good one is {self.path(steps[-1])}" if steps else "no earlier one exists"
        cause = "the disk is full" if full else (str(error).strip() or repr(error)).splitlines()[-1]
        fix = "Free some space" if full else "Make checkpointing.checkpoint_dir writable"
        return CheckpointError(
            f"cannot write checkpoint {final}: {cause}; {last}. {fix}, then run the same command to resume from there"
        )


def remove(path: Path) -> None:
    """Rename a folder and remove it, so that a kill never leaves part of it under a checkpoint's name."""
    if not path.exists():
        return
    trash = path.with_name(f".removing_{path.name.lstrip('.')}")
    shutil.rmtree(trash, ignore_errors=True)
    os.replace(path, trash)
    shutil.rmtree(trash, ignore_errors=True)


def _free_space(folder: Path) -> int:
    """Free bytes on the disk; libraries do not always report a full one by its errno."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return NO_SPACE
