"""The folder of a run: where each file is."""

from __future__ import annotations

from pathlib import Path

from hone.files import write_atomically


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
    def run_info(self) -> Path:
        """Start and end time, versions and exit reason; see `hone.tracking.run_info`."""
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
