"""Normalise the values of rows from JSON, Arrow, pandas or users' objects.

Missing values (NaN, pandas' NA and NaT) become None. An Arrow struct has the keys of all rows, with null for the keys
that a row lacks: with `filled`, such keys are removed at every depth. A null in JSON (in a tool call's arguments) is
kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hone.errors import DataError

MOST_NESTED = 100
"""Maximum nesting of a value. Template engines and JSON writers fail at a few hundred levels."""
MOST_CHARACTERS = 1 << 26
"""Maximum characters of a text. No context is that long, and a tokenizer needs about 100 bytes per character."""


def tidy_row(row: Mapping[str, Any], *, filled: bool = False) -> dict[str, Any]:
    """A row with normalised values. Raises DataError naming the column of an invalid value."""
    tidied = {}
    for column, value in row.items():
        try:
            _whole(str(column))
            tidied[column] = tidy(value, filled=filled)
        except DataError as error:
            raise DataError(f"column {column!a} {error}") from error
    return tidied


def tidy(value: Any, *, filled: bool = False, depth: int = 0) -> Any:
    """The value with missing parts as None; with `filled`, its dicts have no keys without a value.

    NumPy's arrays and numbers become lists and numbers. Raises DataError for half a character or too deep nesting.
    """
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, str):
        return _whole(value)
    if depth >= MOST_NESTED:
        raise DataError(f"is nested more than {MOST_NESTED} levels deep")
    if isinstance(value, Mapping):
        items = {
            _whole(key) if isinstance(key, str) else key: tidy(item, filled=filled, depth=depth + 1)
            for key, item in value.items()
        }
        return {key: item for key, item in items.items() if item is not None} if filled else items
    if isinstance(value, list | tuple):
        return [tidy(item, filled=filled, depth=depth + 1) for item in value]
    if hasattr(value, "tolist"):
        return tidy(value.tolist(), filled=filled, depth=depth + 1)
    return None if _missing(value) else value


def is_table(rows: Any) -> bool:
    """Whether rows come from a table of Arrow or pandas, whose structs have null for each key that a row lacks."""
    return type(rows).__module__.split(".")[0] in ("datasets", "pandas", "pyarrow")


def _missing(value: Any) -> bool:
    """Whether a value is NaN, NaT (neither equals itself) or pandas' NA (which cannot be compared)."""
    if type(value).__name__ == "NAType":
        return True
    return (isinstance(value, float) and value != value) or type(value).__name__ == "NaTType"


def _whole(text: str) -> str:
    """The text. Raises DataError if it contains half of a character."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise DataError(
            f"contains half of a character ({half}, a lone surrogate, at character {error.start}), which no tokenizer "
            "accepts: remove it or replace it by \\ufffd"
        ) from error
    return text
