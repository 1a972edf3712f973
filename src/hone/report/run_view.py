"""Reads a run's folder, complete or not: settings, metrics, rollouts, checkpoints."""

from __future__ import annotations

import difflib
import errno
import fcntl
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hone.config.loading import files
from hone.config.metric_names import column_of
from hone.config.paths import check_local
from hone.config.secrets import SECRETS
from hone.errors import ConfigError, DataError
from hone.files import STEP, by_step, read_json_object
from hone.registry import specs
from hone.tracking.metrics_csv import read_numbers
from hone.tracking.run_folder import RunFolder

Record = dict[str, Any]
MOST_BYTES = 64_000_000
"""Bytes of one step's rollouts that are read."""


@dataclass
class RunView:
    """A run, read once; rollouts are read on demand."""

    folder: RunFolder
    algorithm: str
    config: dict[str, Any]
    columns: list[str]
    rows: list[dict[str, float]]
    """The metrics of each logged step (`step` among them), without blanks and values that are not finite."""
    run_info: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, dict[int, Path]] = field(default_factory=dict)
    """`rollouts` and `validation`: the file of each step, in order."""

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return self.folder.path.resolve().name

    @property
    def model(self) -> str:
        """The model that it began with."""
        policy = self.config.get("policy") or {}
        return str(policy.get("model_name") or self.config.get("model") or "?")

    @property
    def data(self) -> str:
        """The data that it was trained on."""
        train = (self.config.get("data") or {}).get("train") if self.algorithm != "eval" else self.config
        entries = train if isinstance(train, list) else [train]
        key = "dataset" if self.algorithm == "eval" else "dataset_name"
        return ", ".join(str(entry.get(key)) for entry in entries if isinstance(entry, dict)) or "?"

    @property
    def step(self) -> int:
        """The last step that was logged."""
        return int(self.rows[-1]["step"]) if self.rows else 0

    def values(self, metric: str) -> tuple[list[int], list[float]]:
        """Steps that have a value of the metric, and the values."""
        found = [(int(row["step"]), row[metric]) for row in self.rows if metric in row]
        return [step for step, _ in found], [value for _, value in found]

    def metrics(self) -> list[str]:
        """Metrics that have a value at some step, in the order of the file."""
        present = {name for row in self.rows for name in row}
        return [name for name in self.columns if name in present and name != "step"]

    def checkpoints(self) -> list[int]:
        """Steps that can be loaded."""
        return list(by_step(self.folder.path.glob("step_*")))

    def best(self) -> tuple[int, str, float] | None:
        """The best of the checkpoints that are there, by the run's ranking metric: step, metric, value."""
        settings = self.config.get("checkpointing") or {}
        name, sign = settings.get("metric_name"), 1 if settings.get("higher_is_better") else -1
        if not name:
            return None
        metric, kept = column_of(str(name), self.rows), self.checkpoints()
        ranked = [
            (sign * row[metric], int(row["step"]), metric, row[metric])
            for row in self.rows
            if metric in row and int(row["step"]) in kept
        ]
        return max(ranked)[1:] if ranked else None

    def state(self) -> str:
        """The step, and whether the run is running, finished, stopped or killed."""
        if self.algorithm == "eval":
            return "finished"
        total = self.run_info.get("total_steps")
        at = f"step {self.step}" + (f" of {total}" if total else "")
        # Asked before the lock: the process that ends a run holds it while it writes the report.
        if "ended" in self.run_info:
            stopped = self.run_info.get("stopped")
            return f"{at}, stopped: {stopped}" if stopped else f"{at}, finished"
        if in_use(self.folder.path):
            return f"{at}, running"
        if self.run_info:
            return f"{at}, ended without a word (killed?)"
        return at

    def read(self, what: str, step: int) -> list[Record]:
        """The records of a step of `rollouts` or `validation`. Lines that are damaged are left out."""
        records: list[Record] = []
        with self.samples[what][step].open("rb") as file:
            for line in file:
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                if isinstance(record, dict):
                    records.append(record)
                if file.tell() > MOST_BYTES:
                    break
        return records


def open_run(path: str | Path) -> RunView:
    """Read a run's folder, or the folder of `hone eval`'s results. A checkpoint or config.yaml names its run.

    Raises DataError for another path, naming the nearest run, and ConfigError for a damaged config.yaml.
    """
    check_local(path, "RUN")
    given = Path(path).expanduser()
    folder = given.parent if given.name == "config.yaml" or STEP.fullmatch(given.name) else given
    if (folder / "report.json").is_file() and not (folder / "config.yaml").is_file():
        return _evaluation(folder)
    if not (folder / "config.yaml").is_file():
        raise DataError(_not_a_run(given, folder))
    config = SECRETS.hide_all(files.read(folder / "config.yaml"))
    algorithm = next((name for name, spec in reversed([*specs().items()]) if spec.section in config), None)
    if algorithm is None:
        raise ConfigError(
            f"{folder / 'config.yaml'} is not a run's: it has none of the sections of a command"
        )
    logs = RunFolder(folder, (config.get("logger") or {}).get("log_dir"))
    if not logs.metrics.is_file():
        logs = RunFolder(folder)
    samples = {"rollouts": logs.rollouts, "validation": logs.validation}
    files_of = {name: by_step(path.glob("step_*.jsonl")) for name, path in samples.items()}
    return RunView(
        logs, algorithm, config, *read_numbers(logs.metrics), read_json_object(logs.run_info), files_of
    )


def _evaluation(folder: Path) -> RunView:
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{folder / 'report.json'} is damaged: {error}") from error
    numbers = {name: float(value) for name, value in report.items() if isinstance(value, int | float)}
    if "truncated" in numbers:  # a count there, a share among a run's metrics
        numbers["truncated"] /= max(1.0, numbers["prompts"] * numbers["tests_per_prompt"])
    view = RunView(RunFolder(folder), "eval", report, list(numbers), [{"step": 0.0, **numbers}])
    if (folder / "samples.jsonl").is_file():
        view.samples = {"rollouts": {}, "validation": {0: folder / "samples.jsonl"}}
    return view


def in_use(folder: Path) -> bool:
    """Whether a running process holds the folder's lock (`hone.training.process.lock_folder`)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    finally:
        os.close(descriptor)
    return False


def _not_a_run(given: Path, folder: Path) -> str:
    """The error for a path that holds no run, with the nearest run."""
    what = "there is no folder" if not given.exists() else "there is no run (no config.yaml) in"
    near = nearest_run(folder)
    return f"{what} {given}" + (f": did you mean {near}?" if near else ": give the folder of a run")


def nearest_run(folder: Path) -> Path | None:
    """A run below `folder`, or beside it with the nearest name."""
    if folder.is_dir():
        return next(iter(sorted(path.parent for path in folder.glob("*/config.yaml"))), None)
    parent = folder.parent
    while not parent.is_dir() and parent != parent.parent:
        parent = parent.parent
    runs = {path.parent.name: path.parent for path in parent.glob("*/config.yaml")}
    close = difflib.get_close_matches(folder.name, runs, n=1, cutoff=0.4) or sorted(runs)
    return runs[close[0]] if close else None
