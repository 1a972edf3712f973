"""Parse the text of files into rows: JSON Lines, JSON, CSV.

Values are those of the file, except that NaN becomes null. Cells of a CSV are text, so that "007" stays "007", with two
exceptions, which a CSV cannot express otherwise: an empty cell is null, and messages written as JSON (or as Python
literals) are messages.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import re
from typing import Any

from hone.data.rows import ListRows, Row, Rows
from hone.data.values import MOST_NESTED, tidy_row
from hone.errors import DataError

_CONSTANTS = {"NaN": None, "Infinity": float("inf"), "-Infinity": float("-inf")}
_DECODER = json.JSONDecoder(parse_constant=_CONSTANTS.__getitem__)
_SPEAKER = ("role", "from")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""An escaped surrogate, which may be half of a character."""


def line_rows(text: str, path: str) -> Rows:
    """JSON Lines. Raises DataError naming the line."""
    rows: list[Row] = []
    lines: list[int] = []
    # Not splitlines(): JSON strings may contain U+2028 and others, which do not end a line here.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        rows.append(_row(line, f"{path}:{number}"))
        lines.append(number)
    return ListRows(rows, path, lines)


def _row(line: str, location: str) -> Row:
    try:
        row = _DECODER.decode(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{location}: invalid JSON ({error.msg}, column {error.colno})") from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{location}: {_too_much(error)}") from error
    if not isinstance(row, dict):
        raise DataError(f"{location}: a row must be an object with columns, not {_type_name(row)}")
    if line.count("{") + line.count("[") > MOST_NESTED or _HALF.search(line):
        return _tidy(row, location)
    return row


def _tidy(row: Row, location: str) -> Row:
    try:
        return tidy_row(row)
    except DataError as error:
        raise DataError(f"{location}: {error}") from error


def _too_much(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return f"JSON that is nested more than {MOST_NESTED} levels deep"
    return "a number with thousands of digits is not supported: write it as text, in quotes"


def json_rows(text: str, path: str) -> Rows:
    """The rows of a list of objects, of an object with one such list, or of JSON Lines with the wrong suffix."""
    if not text.strip():
        return ListRows([], path)
    try:
        whole = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return line_rows(text, path)
        raise DataError(f"{path}:{error.lineno}: invalid JSON ({error.msg}, column {error.colno})") from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{path}: {_too_much(error)}") from error
    if isinstance(whole, dict):
        lists = [v for v in whole.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
        if len(whole) == 1 and lists:
            whole = lists[0]
        else:  # one line of JSON Lines
            return ListRows([_tidy(whole, path)], path)
    if not isinstance(whole, list):
        raise DataError(f"{path}: expected a list of objects, found {_type_name(whole)}")
    for index, row in enumerate(whole):
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {index}: must be an object with columns, not {_type_name(row)}")
    return ListRows([_tidy(row, f"{path}, row {index}") for index, row in enumerate(whole)], path)


def csv_rows(text: str, path: str, delimiter: str) -> Rows:
    """The rows of a table with a header. Raises DataError naming the line."""
    csv.field_size_limit(2**31 - 1)  # a document may be longer than the default of 128 KiB
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[Row] = []
    lines: list[int] = []
    try:
        names = list(reader.fieldnames or [])
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise DataError(f"{path}:1: the header has the column '{twice[0]}' more than once")
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"{path}:{reader.line_num}: {'more' if None in row else 'fewer'} cells than the header's "
                    f"{len(names)} columns ({', '.join(names)})"
                )
            rows.append({name: _cell(cell) for name, cell in row.items()})
            lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: invalid CSV ({error})") from error
    return ListRows(rows, path, lines)


def _cell(text: str) -> Any:
    if not text:
        return None
    if text[0] not in "[{" or not any(f"{quote}{key}{quote}" in text for key in _SPEAKER for quote in "\"'"):
        return text
    for read in (_DECODER.decode, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        messages = value if isinstance(value, list) else [value]
        if messages and all(isinstance(m, dict) and any(key in m for key in _SPEAKER) for m in messages):
            return value
    return text


def _type_name(value: object) -> str:
    names = {list: "a list", str: "a string", int: "a number", float: "a number", bool: "a truth value"}
    return names.get(type(value), "null" if value is None else f"a {type(value).__name__}")
