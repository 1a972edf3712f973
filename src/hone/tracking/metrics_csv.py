"""A CSV of metrics that survives a kill at any byte and never holds a step twice."""

from __future__ import annotations

import contextlib
import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hone.errors import ConfigError
from hone.files import with_file_name, write_atomically
from hone.tracking.catalogue import ALWAYS, HELD_OUT, MEASURED_AT

Row = dict[str, str]


def read_table(path: Path) -> tuple[list[str], list[Row]]:
    """Columns and rows of a metrics.csv, held-out metrics in the row of the step that measured them alone.

    A last line without a newline (cut off by a kill) and lines that are not a row of this table are left out; a missing
    file is an empty table.
    """
    columns, rows = _read(path)
    for row in rows:
        if row.get(MEASURED_AT, "") not in ("", row["step"]):
            row.update({name: "" for name in row if name.startswith(HELD_OUT)})
    return [name for name in columns if name != MEASURED_AT], [
        {name: cell for name, cell in row.items() if name != MEASURED_AT} for row in rows
    ]


def read_numbers(path: Path) -> tuple[list[str], list[dict[str, float]]]:
    """The same with numbers; cells that are blank, or hold no finite number, are left out of their rows."""
    columns, rows = read_table(path)
    return columns, [dict(_finite(row)) for row in rows]


def _finite(row: Row) -> Iterator[tuple[str, float]]:
    for name, cell in row.items():
        with contextlib.suppress(ValueError):  # blank: the metric had no value at this step
            if math.isfinite(value := float(cell)):
                yield name, value


def _read(path: Path) -> tuple[list[str], list[Row]]:
    if not path.exists():
        return [], []
    text = path.read_bytes().decode("utf-8", errors="replace").replace("\0", "")
    complete = text[: text.rfind("\n") + 1]
    lines = list(csv.reader(io.StringIO(complete, newline="")))
    if not lines or lines[0][:1] != ["step"]:
        return [], []
    columns = lines[0]
    cells = [line for line in lines[1:] if len(line) == len(columns) and line[0].isdigit()]
    return columns, [dict(zip(columns, line, strict=True)) for line in cells]


class MetricTable:
    """The open metrics.csv. Appends and flushes a row at a time.

    `resume_step` is the last step that the restored checkpoint has seen: rows after it are dropped. None
    starts a new file, whatever was there. `always`: columns that are there before they have a value.
    """

    def __init__(self, path: Path, resume_step: int | None, always: Sequence[str] = ALWAYS) -> None:
        self.path = path
        self.columns: list[str] = ["step", *always]
        self._rows: dict[int, Row] = {}
        self._held_out: Row = {}
        """Cells of the last validation, with its step."""
        if resume_step is not None:
            columns, rows = _read(path)
            self.columns = columns + [name for name in self.columns if name not in columns]
            self._rows = {int(row["step"]): row for row in rows if int(row["step"]) <= resume_step}
            self._held_out = _last_held_out(self._rows)
        self._last = max(self._rows, default=-1)
        self._rewrite()
        self._file = open(path, "a", encoding="utf-8", newline="")  # noqa: SIM115 (open as long as the run is)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Write one step's values; a step that is already there gets the further values.

        A new column, or a step out of order, rewrites the file (atomically); anything else appends a line.
        """
        if "step" in values:
            raise ConfigError("a metric is named 'step', as is the column of the steps: rename it")
        cells = self._with_held_out(step, {name: _cell(value) for name, value in values.items()})
        appends = step > self._last
        self._last = max(step, self._last)
        known = set(self.columns)
        self.columns += [name for name in cells if name not in known]
        row = self._rows.setdefault(step, {"step": str(step)})
        row.update(cells)
        if appends and len(known) == len(self.columns):
            with with_file_name(self.path):
                self._file.write(self._line(row))
                self._file.flush()
            return
        self._file.close()
        self._rewrite()
        self._file = open(self.path, "a", encoding="utf-8", newline="")  # noqa: SIM115

    def _with_held_out(self, step: int, cells: Row) -> Row:
        """The cells of a step with the held-out metrics that hold at it; those of its own are remembered."""
        own = {name: cell for name, cell in cells.items() if name.startswith(HELD_OUT)}
        if own:
            first = self._held_out.get(MEASURED_AT) != str(step)
            self._held_out = {**({} if first else self._held_out), **own, MEASURED_AT: str(step)}
        return {**cells, **self._held_out}

    def measured(self) -> list[set[str]]:
        """Of each row, the columns that have a value."""
        return [{name for name, cell in row.items() if cell} for row in self._rows.values()]

    def close(self) -> None:
        """Close the file. Every row is already in it."""
        with with_file_name(self.path):
            self._file.close()

    def _rewrite(self) -> None:
        rows = "".join(self._line(self._rows[step]) for step in sorted(self._rows))
        write_atomically(self.path, _csv_line(self.columns) + rows)

    def _line(self, row: Row) -> str:
        return _csv_line([row.get(name, "") for name in self.columns])


def _last_held_out(rows: Mapping[int, Row]) -> Row:
    """The held-out cells of the last row that has any, with the step that measured them."""
    for step in sorted(rows, reverse=True):
        found = {name: cell for name, cell in rows[step].items() if name.startswith(HELD_OUT) and cell}
        if found:
            return {MEASURED_AT: str(step), **found}
    return {}


def _csv_line(cells: list[str]) -> str:
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _cell(value: float) -> str:
    """Counts in full; otherwise nine digits, which give a float32 back exactly."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.9g}"
