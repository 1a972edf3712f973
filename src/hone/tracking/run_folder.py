"""The folder of a run: where each file is, and writing one so that no reader ever sees half of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put `path` into an OSError that has none: a failed write (disk full) does not say which file it was."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text`: written aside and renamed, so that a kill leaves the old file or the new one.

    Kills, not power cuts: nothing is synced to the disk, which would cost more than a small model's step.
    The name aside is always the same, so that the run that goes on overwrites what a kill left (a run's folder has one
    writer). The folder is made if need be. Raises OSError (disk full, no permission); `path` is then unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.tmp")
    try:
        with naming(path), open(aside, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


class RunFolder:
    """Paths of everything in a run's folder but the checkpoints (`step_N/`), which `engine/` owns.

    `logs` moves metrics, curves, TensorBoard, rollouts and validation samples to a folder of the run's name below it
    (upstream's files have one `logs` for all runs); config.yaml stays with the checkpoints, whose conversion needs it.
    """

    def __init__(self, path: str | Path, logs: str | Path | None = None) -> None:
        self.path = Path(path)
        self.logs = Path(logs) / self.path.resolve().name if logs is not None else self.path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One row for each step; see `hone.tracking.metrics`."""
        return self.logs / "metrics.csv"

    @property
    def curves(self) -> Path:
        """The picture of the metrics."""
        return self.logs / "curves.png"

    @property
    def report(self) -> Path:
        """The page that shows the run; see `hone.report`."""
        return self.logs / "report.html"

    @property
    def story(self) -> Path:
        """When it ran, with which versions, and why it ended."""
        return self.logs / "run.json"

    @property
    def rollouts(self) -> Path:
        """Folder of `step_N.jsonl`: every rollout that was trained on or left out."""
        return self.logs / "rollouts"

    @property
    def validation(self) -> Path:
        """Folder of `step_N.jsonl`: validation samples."""
        return self.logs / "validation"

    @property
    def tensorboard(self) -> Path:
        """Folder of the TensorBoard event files."""
        return self.logs / "tensorboard"

    @property
    def rewards_log(self) -> Path:
        """What the reward functions printed."""
        return self.logs / "rewards.log"

    def rollout_file(self, step: int) -> Path:
        """File of the rollouts of a step."""
        return self.rollouts / f"step_{step}.jsonl"

    def validation_file(self, step: int) -> Path:
        """File of the validation samples of a step."""
        return self.validation / f"step_{step}.jsonl"

    def forget_samples_after(self, step: int) -> None:
        """Remove the samples of steps after the checkpoint `step`, which are to be done again, or (of a new run, 0) of
        every step: those are another run's."""
        for folder in (self.rollouts, self.validation):
            for file in folder.glob("step_*.jsonl"):
                number = file.stem.removeprefix("step_")
                if number.isdigit() and (step == 0 or int(number) > step):
                    file.unlink()

    def write_config(self, yaml_text: str) -> None:
        """Write the resolved configuration."""
        write_atomically(self.config, yaml_text)
