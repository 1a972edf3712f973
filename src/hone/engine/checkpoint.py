"""Checkpoints of a run: `step_N/`, written aside and renamed, checked when read, pruned by a metric.

step_N/config.yaml        the resolved configuration
step_N/policy/weights/    DCP shards; policy/optimizer/; policy/tokenizer/
step_N/state.pt           data cursor and random generators
step_N/training_info.json step, and the metrics that were measured at it
step_N/manifest.json      size and CRC-32 of every other file, written last
"""

from __future__ import annotations

import errno
import json
import math
import os
import random
import re
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.distributed.checkpoint.api import CheckpointException

from hone.config.schema import CheckpointingConfig
from hone.errors import CheckpointError, HoneError

MANIFEST = "manifest.json"
STEP = re.compile(r"step_(\d+)")
NO_SPACE = 1 << 16
"""Free bytes below which a failed write is the disk's fault."""


class Saved(Protocol):
    """What can be put into a checkpoint and taken out of it."""

    async def save(self, path: Path) -> None: ...

    async def load(self, path: Path) -> None: ...


def flat_metric(name: str) -> str:
    """The column of metrics.csv that upstream's `val:NAME` or `train:NAME` means."""
    split, _, metric = name.rpartition(":")
    if not split or metric.startswith(f"{split}_"):
        return metric
    return f"{split}_{metric}" if split == "val" or metric == "loss" else metric


def random_state() -> dict[str, Any]:
    """The state of every global random generator."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "python": [version, list(internal), gauss],
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """The inverse of `random_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


class Checkpoints:
    """The checkpoints below one folder."""

    def __init__(self, config: CheckpointingConfig) -> None:
        self.config = config
        self.root = Path(config.checkpoint_dir)

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, ascending. What is half-written has another name and is not seen."""
        if not self.root.is_dir():
            return []
        matches = (STEP.fullmatch(path.name) for path in self.root.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def path(self, step: int) -> Path:
        return self.root / f"step_{step}"

    def before(self, path: Path) -> list[Path]:
        """The other checkpoints, oldest first: what there is to go back to."""
        return [self.path(step) for step in self.steps() if self.path(step) != path]

    def tidy(self) -> None:
        """Remove what a killed process left half-written or half-removed."""
        for left in (*self.root.glob(".writing_step_*"), *self.root.glob(".removing_*")):
            shutil.rmtree(left, ignore_errors=True)

    async def save(
        self,
        step: int,
        parts: Mapping[str, Saved],
        *,
        tokenizer: Any,
        state: Mapping[str, Any],
        metrics: Mapping[str, float],
        config_yaml: str,
    ) -> Path:
        """Write `step_N` aside, rename it into place, then remove what `keep_top_k` no longer wants.

        Raises CheckpointError when it cannot be written; earlier checkpoints are left as they are.
        """
        final, aside = self.path(step), self.root / f".writing_step_{step}"
        try:
            self.tidy()
            aside.mkdir(parents=True)
            (aside / "config.yaml").write_text(config_yaml)
            for name, part in parts.items():
                await part.save(aside / name)
            tokenizer.save_pretrained(str(aside / "policy" / "tokenizer"))
            torch.save(dict(state), aside / "state.pt")
            info = {"step": step, "metrics": dict(metrics)}
            (aside / "training_info.json").write_text(json.dumps(info, indent=1))
            _write_manifest(aside)
            _remove(final)
            os.replace(aside, final)
            _sync(self.root)
        except BaseException as error:
            full = is_disk_full(error) or _free_space(self.root) < NO_SPACE
            shutil.rmtree(aside, ignore_errors=True)
            if (cause := _reported(error)) is not None:
                raise cause from None
            if isinstance(error, OSError | CheckpointException | RuntimeError):
                raise self._cannot_write(final, error, full) from error
            raise
        self._prune()
        return final

    async def load(self, step: int, parts: Mapping[str, Saved]) -> dict[str, Any]:
        """Restore `parts` and return the saved state. Raises CheckpointError for damage, naming the file."""
        path = self.path(step)
        verify(path, fallback=self.before(path))
        for name, part in parts.items():
            await part.load(path / name)
        return torch.load(path / "state.pt", weights_only=True)

    def metrics(self, step: int) -> dict[str, float]:
        """The metrics that were current when `step_N` was saved."""
        try:
            return dict(json.loads((self.path(step) / "training_info.json").read_text())["metrics"])
        except (OSError, ValueError, KeyError, TypeError):
            return {}  # a damaged file ranks last; loading that checkpoint says what is wrong with it

    def _ranked(self) -> list[int]:
        if self.config.metric_name is None:
            return []
        name = flat_metric(self.config.metric_name)
        values = {step: self.metrics(step).get(name) for step in self.steps()}
        sign = -1.0 if self.config.higher_is_better else 1.0
        known = {step: value for step, value in values.items() if value is not None and not math.isnan(value)}
        return sorted(known, key=lambda step: (sign * known[step], -step))

    def _prune(self) -> None:
        """Keep the best `keep_top_k` by the metric (by recency without one) and always the latest."""
        steps = self.steps()
        if self.config.keep_top_k is None or not steps:
            return
        order = self._ranked()
        order += [step for step in reversed(steps) if step not in order]
        for step in order[self.config.keep_top_k :]:
            if step != steps[-1]:
                _remove(self.path(step))

    def _cannot_write(self, final: Path, error: BaseException, full: bool) -> CheckpointError:
        steps = self.steps()
        last = f"the last good one is {self.path(steps[-1])}" if steps else "no earlier one exists"
        cause = "the disk is full" if full else (str(error).strip() or repr(error)).splitlines()[-1]
        fix = "Free some space" if full else "Make checkpointing.checkpoint_dir writable"
        return CheckpointError(
            f"cannot write checkpoint {final}: {cause}; {last}. {fix}, then run the same command to go on from there"
        )


def verify(
    path: Path, *, fallback: Sequence[Path] = (), only: str | None = None, fix: str | None = None
) -> None:
    """Compare every file (or `only` one) with the manifest. Raises CheckpointError naming the first that differs."""
    good = f" to go on from {fallback[-1].name}" if fallback else ""
    fix = fix or f"Remove the folder {path}{good}, then run the same command"
    try:
        expected = {name: (int(size), int(crc)) for name, (size, crc) in _manifest(path).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {MANIFEST} cannot be read. {fix}") from error
    for name in ("config.yaml", "state.pt", *expected) if only is None else (only,):
        if name not in expected:
            raise CheckpointError(f"checkpoint {path} is damaged: {MANIFEST} does not list {name}. {fix}")
        file, (size, crc) = path / name, expected[name]
        if not file.is_file():
            raise CheckpointError(f"checkpoint {path} is damaged: {name} is missing. {fix}")
        if file.stat().st_size != size or _crc(file) != crc:
            raise CheckpointError(f"checkpoint {path} is damaged: {name} is not what was written. {fix}")


def _manifest(path: Path) -> dict[str, tuple[int, int]]:
    return json.loads((path / MANIFEST).read_text())


def _write_manifest(path: Path) -> None:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    manifest = {str(file.relative_to(path)): [file.stat().st_size, _crc(file)] for file in files}
    (path / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for file in (*files, path / MANIFEST):
        _sync(file)
    for folder in {file.parent for file in files}:
        _sync(folder)


def _crc(file: Path) -> int:
    value = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Rename first: a folder that is half-deleted when the process dies is never taken for a checkpoint."""
    if not path.exists():
        return
    trash = path.with_name(f".removing_{path.name.lstrip('.')}")
    shutil.rmtree(trash, ignore_errors=True)
    os.replace(path, trash)
    shutil.rmtree(trash, ignore_errors=True)


def _reported(error: BaseException) -> BaseException | None:
    """What Hone itself, or Ctrl-C, raised inside DCP, which packs everything into an exception of its own."""
    inner = [cause for cause, _ in error.failures.values()] if isinstance(error, CheckpointException) else []
    return next((cause for cause in inner if isinstance(cause, HoneError | KeyboardInterrupt)), None)


def _free_space(folder: Path) -> int:
    """Bytes that can still be written: the word of the disk where a library reports a failed write by other words."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return NO_SPACE


def is_disk_full(error: BaseException | None) -> bool:
    """Whether the disk is full, wherever in the chain (or DCP, PyTorch's zip writer, safetensors) it says so."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left" in str(error) or "unexpected pos" in str(error) or "code: 28" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
