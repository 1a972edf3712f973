"""Gold answers, rows, and the error for bad options: shared by the built-in functions."""

from __future__ import annotations

from typing import Any

from hone.rollout.rewards.function_signature import PASSED
from hone.rollout.rewards.text import gold_answer
from hone.rollout.workers.worker_protocol import Unusable

GOLD_COLUMNS = ("answer", "ground_truth", "solution", "expected_answer")
"""Columns searched for the gold answer where the option `column` is not given."""


class BadOption(Unusable):
    """An invalid option; the message names it and its valid values."""


def golds(column: str | None, columns: dict[str, Any]) -> list[str | None]:
    """The gold answer of each row, from `column` or from the first of GOLD_COLUMNS that has a value there."""
    names = [column] if column else [name for name in GOLD_COLUMNS if name in columns]
    if not names or names[0] not in columns:
        raise LookupError(f"no gold column {column or ' or '.join(GOLD_COLUMNS)} in {sorted(columns)}")
    rows = zip(*(columns[name] for name in names), strict=True)
    return [gold_answer(next((value for value in row if value is not None), None)) for row in rows]


def rows_of(columns: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """The data columns, row by row, without the arguments that Hone passes."""
    data = {name: values for name, values in columns.items() if name not in PASSED}
    return [{name: values[i] for name, values in data.items()} for i in range(count)]
