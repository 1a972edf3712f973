"""What several built-in functions share: gold answers, and what they say of options that cannot be."""

from __future__ import annotations

from typing import Any

from hone.rollout.rewards.function_signature import PASSED, Unusable
from hone.rollout.rewards.text import gold_answer

GOLD_COLUMNS = ("answer", "ground_truth", "solution", "expected_answer")
"""Where the gold answer is looked for when the option `column` is not given: the first that the data has."""


class BadOption(Unusable):
    """An option that a function cannot work with; the message names it and what it takes."""


def golds(column: str | None, columns: dict[str, Any]) -> list[str | None]:
    """The gold answer of each row, from `column` or from the first of GOLD_COLUMNS that has a value there."""
    names = [column] if column else [name for name in GOLD_COLUMNS if name in columns]
    if not names or names[0] not in columns:
        raise LookupError(
            f"no gold column: needs {column or ' or '.join(GOLD_COLUMNS)}, has {sorted(columns)}"
        )
    rows = zip(*(columns[name] for name in names), strict=True)
    return [gold_answer(next((value for value in row if value is not None), None)) for row in rows]


def rows_of(columns: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """The columns of the data, row by row, without what every function is passed besides."""
    data = {name: values for name, values in columns.items() if name not in PASSED}
    return [{name: values[i] for name, values in data.items()} for i in range(count)]
