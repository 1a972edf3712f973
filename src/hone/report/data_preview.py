"""What `hone show data` shows: the rows of a run, tokenised and masked, and what is left out or not read.

It reads the data as the run would, with the same checks, and loads no model. Rows that would stop the run are listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hone.config import EvalConfig, Loaded
from hone.data import PromptData, build_eval_prompts, build_preferences, build_prompts, build_supervised
from hone.data.datasets import Dataset
from hone.data.resumable import ResumableDataset
from hone.data.row_preview import RowPreview
from hone.engine.local.local_engine import tokenizer_of
from hone.errors import DataError
from hone.export import with_models_of_runs
from hone.registry import Rows, rows_of

BUILDERS: dict[Rows, Any] = {
    "examples": build_supervised,
    "comparisons": build_preferences,
    "prompts": build_prompts,
}
EXAMPLES = 5
"""Rows that are named for each reason."""
MOST_REFUSED = 20
"""Refused rows that are listed."""


@dataclass
class DataView:
    """The data of a run."""

    algorithm: str
    model: str
    datasets: list[str]
    """A line for each: the number of rows, and of those that are drawn."""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Locations of the rows that are left out, by reason."""
    unread: list[str] = field(default_factory=list)
    """Columns that are not read, by dataset."""
    altered: list[str] = field(default_factory=list)
    """What the chat template changes in some row."""
    rows: list[RowPreview] = field(default_factory=list)
    trains: bool = True
    """Whether the rows have targets (are not prompts)."""
    chosen: str = ""
    """Which rows are shown, in words."""
    refused: dict[str, str] = field(default_factory=dict)
    """The reasons why rows would stop a run, by location."""

    @property
    def notes(self) -> list[tuple[str, list[str]]]:
        """Titles and lines about rows that are not shown."""
        notes = []
        if refused := [f"{location}: {reason}" for location, reason in self.refused.items()]:
            notes.append((f"refused, a run stops at them: {len(refused)}", _some(refused, MOST_REFUSED)))
        for reason, locations in self.left_out.items():
            notes.append((f"left out, {reason}: {len(locations)}", [", ".join(_some(locations, EXAMPLES))]))
        notes += [("changed by the chat template", [line]) for line in self.altered]
        return notes + [("unused columns", [line]) for line in self.unread]


def _some(texts: list[str], most: int) -> list[str]:
    return texts[:most] + ([f"and {len(texts) - most} more"] if len(texts) > most else [])


def gather(
    loaded: Loaded[Any], *, count: int, rows: Sequence[str] = (), validation: bool = False
) -> DataView:
    """The first `count` rows that a run draws, or `rows` (`17`, or `DATASET:17`), of the training or validation data.

    Raises HoneError for a row that does not exist, and for whatever would stop the run before its first step, except
    refused rows: these are in `refused`.
    """
    loaded = with_models_of_runs(loaded, only_described=True)
    view = DataView(loaded.algorithm, _model(loaded.config), [])
    try:
        data = _read(loaded, view.refused)
    except DataError as error:
        if not view.refused:
            raise
        view.datasets = [str(error)]
        return view
    training, held = data.training_datasets, data.validation_datasets
    view.trains = not isinstance(data, PromptData)
    view.datasets = [*map(_counted, training), *(f"held out: {_counted(dataset)}" for dataset in held)]
    for dataset in (*training, *held):
        for row, reason in dataset.excluded.items():
            view.left_out.setdefault(reason, []).append(dataset.rows.location(row))
        if view.trains and dataset.unread:
            view.unread.append(f"{dataset.rows.name}: {', '.join(dataset.unread)}")
    view.altered = data.finding_log.unreported()
    datasets = held if validation else training
    if validation and not held:
        raise DataError("there are no held-out rows: set data.validation or data.train.split_validation_size")
    if rows:
        chosen, view.chosen = [_named(datasets, row) for row in rows], "the rows asked for"
    elif validation:
        chosen = [(dataset, row) for dataset in datasets for row in dataset.indices][:count]
        view.chosen = "the first held-out rows"
    else:
        chosen, view.chosen = data.first_rows(count), "the first rows that the run draws"
    previews = [data.preview(dataset, row) for dataset, row in chosen]
    view.rows = [preview for preview in previews if preview is not None]
    asked = [dataset.rows.location(row) for dataset, row in chosen]
    view.refused = {at: view.refused[at] for at in asked if at in view.refused} | view.refused  # those first
    return view


def _read(loaded: Loaded[Any], refused: dict[str, str]) -> ResumableDataset:
    config = loaded.config
    build = build_eval_prompts if isinstance(config, EvalConfig) else BUILDERS[rows_of(loaded.algorithm)]
    built: ResumableDataset = build(config, tokenizer_of(config), refused)
    return built


def _model(config: Any) -> str:
    return config.generation.model_name if isinstance(config, EvalConfig) else config.policy.model_name


def _counted(dataset: Dataset) -> str:
    left_out = f", {len(dataset.excluded)} left out" if dataset.excluded else ""
    return f"{dataset.rows.name}: {len(dataset.indices)} of {len(dataset.rows)} rows{left_out}"


def _named(datasets: Sequence[Dataset], named: str) -> tuple[Dataset, int]:
    """A row named by its number, or `DATASET:number`. Raises DataError for a name without a row."""
    label, _, number = named.rpartition(":")
    found = [dataset for dataset in datasets if not label or label in (dataset.label, dataset.rows.name)]
    if not found:
        raise DataError(f"no dataset {label!r}: there are {', '.join(dataset.label for dataset in datasets)}")
    if not number.isdigit():
        raise DataError(f"{named!r} is no row: give numbers from 0, as in 0,17 or {found[0].label}:17")
    if int(number) >= len(found[0].rows):
        raise DataError(f"{found[0].rows.name} has no row {number}: its last is {len(found[0].rows) - 1}")
    return found[0], int(number)
