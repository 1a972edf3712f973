"""Columns of a row: their accepted names, how each kind is read, and error messages for missing or wrong columns."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hone.data.messages import canonical
from hone.data.values import MOST_CHARACTERS
from hone.errors import DataError
from hone.types import Message

PAIRS = (
    ("instruction", "output"),
    ("instruction", "response"),
    ("input", "output"),
    ("question", "answer"),
    ("question", "response"),
    ("problem", "solution"),
    ("problem", "generated_solution"),
    ("query", "response"),
    ("query", "answer"),
    ("prompt", "response"),
)
PROMPT_COLUMNS = (
    "prompt",
    "messages",
    "conversations",
    "question",
    "problem",
    "instruction",
    "query",
    "input",
)
QUESTIONS = ("question", "instruction", "query", "problem", "input")
"""What a user asked, in preference rows without a `prompt`."""
SYSTEM = ("system", "system_prompt")
WEIGHTS = ("weight", "train", "loss")
"""Keys of a message for whether it is trained on: OpenAI's, axolotl's, ms-swift's."""


class TrackedRow(dict[str, Any]):
    """A row that records which of its columns are read: `row[column]` reads, `row.get(column)` only tests."""

    def __init__(self, row: Mapping[str, Any], columns_read: set[str]) -> None:
        super().__init__(row)
        self.columns_read = columns_read

    def __getitem__(self, column: str) -> Any:
        self.columns_read.add(column)
        return super().__getitem__(column)


def has(row: Mapping[str, Any], *columns: str) -> bool:
    return all(row.get(c) is not None for c in columns)


def text(row: Mapping[str, Any], column: str) -> str:
    value = row[column]
    if isinstance(value, str):
        return short_enough(value, f"column '{column}'")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise DataError(f"column '{column}' must be text, but holds {type(value).__name__}")


def short_enough(value: str, what: str) -> str:
    if len(value) > MOST_CHARACTERS:
        raise DataError(
            f"{what} holds {len(value)} characters; the limit is {MOST_CHARACTERS}: split the text"
        )
    return value


def number(row: Mapping[str, Any], column: str, meaning: str) -> float:
    """A finite number, which may be written as text (all cells of a CSV are text)."""
    value = row[column]
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise DataError(f"column '{column}' must say {meaning}, as a finite number, but holds {value!r:.60}")
    return found


def boolean(row: Mapping[str, Any], column: str, meaning: str) -> bool:
    """True or false, which may be written as 0 and 1 or as text."""
    value = row[column]
    found = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}.get(
        str(value).strip().lower()
    )
    if found is None:
        raise DataError(f"column '{column}' must say {meaning}, as true or false, but holds {value!r:.60}")
    return found


def question(row: Mapping[str, Any], column: str) -> str:
    """A user's question. The `input` (Alpaca) or `context` (Dolly) beside an `instruction` is part of it."""
    asked = text(row, column)
    for extra in ("input", "context") if column == "instruction" else ():
        if has(row, extra) and (more := text(row, extra)):
            return f"{asked}\n\n{more}"
    return asked


def context(row: Mapping[str, Any], column: str) -> str:
    """The text that a `question` is about, as in SQuAD."""
    return text(row, "context") if column == "question" and isinstance(row.get("context"), str) else ""


def system(row: Mapping[str, Any]) -> str | None:
    """The row's system message; None if it is missing or empty."""
    return next((found for c in SYSTEM if has(row, c) and (found := text(row, c)).strip()), None)


def history(row: Mapping[str, Any]) -> list[Message]:
    """Earlier turns, as pairs of a question and its answer or as messages."""
    turns = _parsed(row, "history") if has(row, "history") else None
    if not turns:
        return []
    if not isinstance(turns, Sequence) or isinstance(turns, str):
        raise DataError("column 'history' must be a list of [question, answer] pairs, or of messages")
    if isinstance(turns[0], Mapping):
        return messages({"history": turns}, "history")
    found: list[Message] = []
    for i, turn in enumerate(turns):
        if not isinstance(turn, Sequence) or len(turn) != 2 or not all(isinstance(t, str) for t in turn):
            raise DataError(f"history[{i}] must be a [question, answer] pair, not {turn!r:.60}")
        found += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    return found


def messages(row: Mapping[str, Any], column: str) -> list[Message]:
    """Messages with role and content, written as role/content or from/value. Keys that are null are dropped: Arrow adds
    them."""
    value = row[column]
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        value = _parsed(row, column)
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise DataError(f"column '{column}' must be a list of messages with 'role' and 'content'")
    return [_message(m, column, i) for i, m in enumerate(value)]


def _message(message: Any, column: str, index: int) -> Message:
    if not isinstance(message, Mapping):
        raise DataError(f"{column}[{index}] must be a message with 'role' and 'content', not {message!r:.60}")
    if message.get("from") is not None and "value" in message:
        weights = {k: message[k] for k in WEIGHTS if k in message}
        return canonical(
            {"role": message["from"], "content": message["value"], **weights}, f"{column}[{index}]"
        )
    if not isinstance(message.get("role"), str) or not (
        {"content", "tool_calls", "function_call"} & message.keys()
    ):
        raise DataError(
            f"{column}[{index}] has the keys {sorted(message)}; a message needs 'role' and 'content'"
        )
    found = canonical(message, f"{column}[{index}]")
    short_enough(found["content"], f"{column}[{index}]")
    return found


def trained(given: Sequence[Message]) -> tuple[list[Message], frozenset[int]]:
    """The messages without their weights, and the indices of those that are not to be trained on."""
    untrained = set()
    for i, message in enumerate(given):
        for key in (k for k in WEIGHTS if k in message):
            if message[key] not in (0, 1):
                raise DataError(
                    f"message {i} has '{key}': {message[key]!r:.40}, which must be 1 or true (train on the message) or "
                    "0 or false (do not)"
                )
            if not message[key]:
                untrained.add(i)
            elif key != "weight" and message["role"] != "assistant":
                raise DataError(
                    f"message {i} is the {message['role']}'s and says '{key}': true, but only the assistant's are "
                    "trained on: remove the key"
                )
    plain = [{k: v for k, v in m.items() if k not in WEIGHTS} for m in given]
    return plain, frozenset(untrained)


def tools(row: Mapping[str, Any]) -> list[Any] | None:
    """Definitions of tools, for the chat template."""
    return (_parsed(row, "tools") or None) if has(row, "tools") else None


def template_kwargs(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return (_parsed(row, "chat_template_kwargs") or {}) if has(row, "chat_template_kwargs") else {}


def _parsed(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column that holds a list or an object, which may be written as JSON text."""
    value = row[column]
    if not isinstance(value, str) or not value.strip():
        return value or None
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise DataError(f"column '{column}' is text that is not JSON: {error}") from error


def no_column(row: Mapping[str, Any], missing: list[str]) -> str:
    return f"no column {' or '.join(map(repr, missing))}; it has {listed(row)}{_hint(row, missing)}"


def no_format(row: Mapping[str, Any]) -> str:
    pairs = ", ".join(f"'{a}' and '{b}'" for a, b in (("prompt", "completion"), *PAIRS))
    wanted = {c for pair in PAIRS for c in pair} | {"prompt", "completion", "messages", "text"}
    if null := _null(row, wanted):
        return null
    return (
        f"it has the columns {listed(row)}, and none that supervised training reads: 'messages'; 'text'; "
        f"{pairs}{_hint(row, wanted - row.keys())}. Or name the columns: data.train.input_key and output_key"
    )


def no_prompt(row: Mapping[str, Any]) -> str:
    if null := _null(row, PROMPT_COLUMNS):
        return null
    return (
        f"it has the columns {listed(row)}, and no prompt: one of {', '.join(PROMPT_COLUMNS)}"
        f"{_hint(row, PROMPT_COLUMNS)}. Or name the column: data.train.input_key"
    )


def _null(row: Mapping[str, Any], wanted: Collection[str]) -> str:
    """The message for wanted columns that are null; empty where none is."""
    names = [f"'{column}'" for column in row if column in wanted and row.get(column) is None]
    if not names:
        return ""
    return (
        f"column {' and '.join(names)} is empty (null, NaN or an empty cell): fill it in, or remove the row; it has "
        f"the columns {listed(row)}"
    )


def listed(row: Mapping[str, Any]) -> str:
    return ", ".join(c if v is not None else f"{c} (null)" for c, v in row.items()) or "no columns"


def _hint(row: Mapping[str, Any], wanted: Any) -> str:
    for column in row:
        if close := difflib.get_close_matches(column, sorted(wanted), n=1, cutoff=0.75):
            return f" (is '{column}' meant to be '{close[0]}'?)"
    return ""
