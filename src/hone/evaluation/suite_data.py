"""The rows of a suite: from the hub, or from a file of the same columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hone.config.schema.data import DatasetEntry
from hone.data import files
from hone.data.rows import Row, Rows
from hone.data.sources import load_rows
from hone.errors import ConfigError, DataError
from hone.evaluation.suite import Suite


def load_problems(suite: Suite, path: str | None, limit: int | None) -> Rows:
    """The first `limit` problems of a suite: of its hub data set, or of `path`, a file or a folder with one file for
    each split. Raises DataError for data that is not there or lacks a column of the suite."""
    rows = _load(suite, path, suite.data.split, limit)
    _check_columns(suite, rows)
    return rows


def _load(suite: Suite, path: str | None, split: str, limit: int | None = None) -> Rows:
    source = {"dataset_name": suite.data.name, "subset": suite.data.subset, "split": split}
    if path is not None:
        file = _file_of_split(Path(path).expanduser(), split)
        source = {"dataset_name": file or path, "split": None if file else split}
    entry = DatasetEntry.model_validate({**source, "limit": limit})
    try:
        return load_rows(entry, role="test")
    except DataError as error:
        fix = f"eval.suite_data.{suite.name}={path}" if path else f"give a copy: suite_data.{suite.name}=PATH"
        raise DataError(f"suite {suite.name}, split {split}: {error} ({fix})") from error


def _file_of_split(path: Path, split: str) -> str | None:
    """The file itself, or in a folder the data file that is named by the split, or the only one there is."""
    if path.is_file():
        return str(path)
    found = [file for file in sorted(path.glob("*")) if files.data_suffix(str(file))]
    named = [file for file in found if file.name.split(".")[0] == split]
    return str((named or found)[0]) if named or len(found) == 1 else None


def _check_columns(suite: Suite, rows: Rows) -> None:
    have = list(rows[0])
    if missing := [name for name in suite.data.columns if name not in have]:
        raise DataError(
            f"suite {suite.name}: {rows.name} has no column {', '.join(missing)}; it has {', '.join(have)}. The suite "
            f"reads {', '.join(suite.data.columns)}, as {suite.data.name} has them"
        )


class Examples:
    """Few-shot examples of a suite: the first `count` rows of its example split, for each problem."""

    def __init__(self, suite: Suite, path: str | None, count: int) -> None:
        """Raises ConfigError if there are none to take, DataError for data that cannot be read."""
        self.suite, self.count = suite, count
        self._rows: dict[Any, list[Row]] = {}
        if not count:
            return
        if suite.fewshot is None:
            raise ConfigError(
                f"suite {suite.name} has no few-shot examples ({suite.data.name} has no split for them): set "
                "eval.num_fewshot=0"
            )
        if path is not None and Path(path).expanduser().is_file():
            raise ConfigError(
                f"suite {suite.name} takes {count} examples from the split {suite.fewshot.split}, which the file "
                f"{path} does not have: give a folder with one file for each split ({suite.fewshot.split}.jsonl, "
                f"{suite.data.split}.jsonl), or eval.num_fewshot=0"
            )
        self._collect(_load(suite, path, suite.fewshot.split))

    def _collect(self, rows: Rows) -> None:
        """The first `count` rows for each value of the column that problem and example share."""
        assert self.suite.fewshot is not None
        same = self.suite.fewshot.same
        _check_columns(self.suite, rows)
        for row in rows:
            kept = self._rows.setdefault(row[same] if same else None, [])
            if len(kept) < self.count:
                kept.append(row)
            elif same is None:
                return

    def of(self, row: Row) -> list[Row]:
        """The examples before a problem. Raises DataError if there are fewer than `count`."""
        if not self.count:
            return []
        assert self.suite.fewshot is not None
        same = self.suite.fewshot.same
        found = self._rows.get(row[same] if same else None, [])
        if len(found) < self.count:
            which = f" with {same}={row[same]}" if same else ""
            raise DataError(
                f"suite {self.suite.name}: the split {self.suite.fewshot.split} has {len(found)} examples{which}, and "
                f"{self.count} are asked for: lower eval.num_fewshot"
            )
        return found


def texts_of(value: Any) -> Iterator[str]:
    """All texts of a row or a value, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from texts_of(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts_of(inner)
