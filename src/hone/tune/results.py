"""The results of a search: the table of trials, the best configuration, and messages on the terminal."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import yaml

from hone.files import write_atomically
from hone.tune.settings import Search
from hone.tune.space import format_value

STATES = {"COMPLETE": "done", "PRUNED": "stopped early", "FAIL": "failed", "RUNNING": "running"}
"""Optuna's states as the table calls them."""


def announce(text: str) -> None:
    """Print one line and flush."""
    print(text, flush=True)


def folder_of(search: Search, number: int) -> Path:
    """The run's folder of a trial."""
    return search.folder / f"trial_{number:04d}"


def finished(study: Any) -> list[Any]:
    """Trials that have ended, in any state."""
    return [trial for trial in study.trials if trial.state.is_finished()]


def best_trial(study: Any) -> Any | None:
    """The best of the completed trials."""
    done = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    sign = -1 if study.direction.name == "MAXIMIZE" else 1
    return min(done, key=lambda trial: sign * trial.value) if done else None


def value_of(trial: Any) -> float | None:
    """A trial's value; the last reported value if it was stopped early."""
    return trial.value if trial.value is not None else trial.intermediate_values.get(trial.last_step)


def column_of(search: Search, study: Any) -> str:
    """The column of metrics.csv by which all trials are compared."""
    return str(study.user_attrs.get("column", search.column))


def write(search: Search, study: Any) -> None:
    """Write trials.csv, and best.yaml once a trial is complete."""
    write_atomically(search.folder / "trials.csv", _table(search, study))
    best = best_trial(study)
    if best is None:
        return
    config = yaml.safe_load((folder_of(search, best.number) / "config.yaml").read_text())
    config["checkpointing"]["checkpoint_dir"] = str(search.folder / "best")
    head = (
        f"# hone {search.algorithm} --config {search.folder / 'best.yaml'}\n"
        f"# Trial {best.number} of {search.folder}: {column_of(search, study)} {best.value:.6g}\n"
    )
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    write_atomically(search.folder / "best.yaml", head + text)


def _table(search: Search, study: Any) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    keys = [p.key for p in search.parameters]
    writer.writerow(["trial", "state", column_of(search, study), *keys, "seconds", "cause"])
    for trial in study.trials:
        if trial.state.name == "WAITING":
            continue
        value = value_of(trial)
        known = [p if p.key in trial.params else None for p in search.parameters]
        settings = ["" if p is None else format_value(p.value(trial.params[p.key])) for p in known]
        attributes = [trial.user_attrs.get(name, "") for name in ("seconds", "cause")]
        value_text = "" if value is None else f"{value:.9g}"
        writer.writerow([trial.number, STATES[trial.state.name], value_text, *settings, *attributes])
    return text.getvalue()


def summary(search: Search, study: Any) -> dict[str, Any]:
    """Counts of trials, the metric, and the number and value of the best trial."""
    states = [trial.state.name for trial in study.trials]
    best = best_trial(study)
    return {
        "trials": len(finished(study)),
        "pruned": states.count("PRUNED"),
        "failed": states.count("FAIL"),
        "metric": column_of(search, study),
        "best": None if best is None else best.number,
        "value": None if best is None else best.value,
    }
