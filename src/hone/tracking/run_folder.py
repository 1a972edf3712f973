"""The folder of a run: where each file is."""

from __future__ import annotations

from pathlib import Path

from hone.files import by_step, write_atomically


class RunFolder:
    """Paths of everything in a run's folder but the checkpoints (`step_N/`, see `hone.checkpoint`).

    `logs` moves metrics, curves, TensorBoard files, rollouts and validation samples to a folder of the run's name below
    it (NeMo RL's files have one `logs` for all runs); config.yaml stays beside the checkpoints: a conversion needs it.
    """

    def __init__(self, path: str | Path, logs: str | Path | None = None) -> None:
        self.path = Path(path)
        self.logs = Path(logs) / self.path.resolve().name if logs is not None else self.path
        self.config = self.path / "config.yaml"
        """The resolved configuration."""
        self.metrics = self.logs / "metrics.csv"
        """One row for each step; see `hone.tracking.metrics`."""
        self.curves = self.logs / "curves.png"
        self.timeline, self.timeline_picture = self.logs / "timeline.json", self.logs / "timeline.png"
        """Who worked when in the last steps of an online run; see `hone.rollout.timeline`."""
        self.report = self.logs / "report.html"
        """The page that shows the run; see `hone.report`."""
        self.run_info = self.logs / "run.json"
        """Start and end time, versions and exit reason; see `hone.tracking.run_info`."""
        self.rollouts = self.logs / "rollouts"
        """Folder of `step_N.jsonl`: every rollout that was trained on or left out."""
        self.validation = self.logs / "validation"
        """Folder of `step_N.jsonl`: validation samples."""
        self.tensorboard = self.logs / "tensorboard"
        """Folder of the TensorBoard event files."""
        self.rewards_log = self.logs / "rewards.log"
        """What the reward functions printed."""

    def rollout_file(self, step: int) -> Path:
        """File of the rollouts of a step."""
        return self.rollouts / f"step_{step}.jsonl"

    def validation_file(self, step: int) -> Path:
        """File of the validation samples of a step."""
        return self.validation / f"step_{step}.jsonl"

    def forget_samples_after(self, step: int) -> None:
        """Remove the samples of steps after the checkpoint `step`, which are run again; of every step for a new run
        (step 0), since those are another run's."""
        for folder in (self.rollouts, self.validation):
            for number, file in by_step(folder.glob("step_*.jsonl")).items():
                if step == 0 or number > step:
                    file.unlink()

    def write_config(self, yaml_text: str) -> None:
        """Write the resolved configuration."""
        write_atomically(self.config, yaml_text)
