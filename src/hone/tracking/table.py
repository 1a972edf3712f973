"""A CSV of metrics that survives a kill at any byte and never holds a step twice."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from hone.tracking.folder import naming, write_atomically

ALWAYS = ("train_loss", "val_loss", "learning_rate", "gpu_utilization")
"""Columns that every file of supervised training has, blank where there is no value, so that scripts which draw them
need no `if`."""

Row = dict[str, str]


def read_table(path: Path) -> tuple[list[str], list[Row]]:
    """Columns and rows of a metrics.csv. A line that was cut off (no newline at its end) and lines that are
    not a row of this table are left out; a missing file is an empty table."""
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
        if resume_step is not None:
            columns, rows = read_table(path)
            self.columns = columns + [name for name in self.columns if name not in columns]
            self._rows = {int(row["step"]): row for row in rows if int(row["step"]) <= resume_step}
        self._last = max(self._rows, default=-1)
        self._rewrite()
        self._file = open(path, "a", encoding="utf-8", newline="")  # noqa: SIM115 (open as long as the run is)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Write one step's values; a step that is already there gets the further values.

        A new column, or a step out of order, rewrites the file (atomically); anything else appends a line.
        """
        cells = {name: _cell(value) for name, value in values.items()}
        appends = step > self._last
        self._last = max(step, self._last)
        known = set(self.columns)
        self.columns += [name for name in cells if name not in known]
        row = self._rows.setdefault(step, {"step": str(step)})
        row.update(cells)
        if appends and len(known) == len(self.columns):
            with naming(self.path):
                self._file.write(self._line(row))
                self._file.flush()
            return
        self._file.close()
        self._rewrite()
        self._file = open(self.path, "a", encoding="utf-8", newline="")  # noqa: SIM115

    def close(self) -> None:
        """Close the file. Every row is already in it."""
        with naming(self.path):
            self._file.close()

    def _rewrite(self) -> None:
        rows = "".join(self._line(self._rows[step]) for step in sorted(self._rows))
        write_atomically(self.path, _csv_line(self.columns) + rows)

    def _line(self, row: Row) -> str:
        return _csv_line([row.get(name, "") for name in self.columns])


def _csv_line(cells: list[str]) -> str:
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _cell(value: float) -> str:
    """Counts in full; otherwise nine digits, which give a float32 back exactly."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.9g}"
