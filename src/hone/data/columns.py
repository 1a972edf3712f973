"""Columns of one row: which there are, what they hold, and what to say when they do not do."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from hone.data.messages import canonical
from hone.errors import DataError
from hone.types import Message

PAIRS = (
    ("instruction", "output"),
    ("instruction", "response"),
    ("input", "output"),
    ("question", "answer"),
    ("problem", "solution"),
    ("problem", "generated_solution"),
)
PROMPT_COLUMNS = ("prompt", "messages", "conversations", "question", "problem", "instruction", "input")


def has(row: Mapping[str, Any], *columns: str) -> bool:
    return all(row.get(c) is not None for c in columns)


def text(row: Mapping[str, Any], column: str) -> str:
    value = row[column]
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise DataError(f"column '{column}' must be text, but holds {type(value).__name__}")


def messages(row: Mapping[str, Any], column: str) -> list[Message]:
    """Messages with role and content, from either spelling; keys that are null (Arrow fills them in) go."""
    value = row[column]
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise DataError(f"column '{column}' must be a list of messages with 'role' and 'content'")
    return [_message(m, column, i) for i, m in enumerate(value)]


def _message(message: Any, column: str, index: int) -> Message:
    if not isinstance(message, Mapping):
        raise DataError(f"{column}[{index}] must be a message with 'role' and 'content', not {message!r:.60}")
    if message.get("from") is not None and "value" in message:
        return canonical({"role": message["from"], "content": message["value"]}, f"{column}[{index}]")
    if not isinstance(message.get("role"), str) or not (
        {"content", "tool_calls", "function_call"} & message.keys()
    ):
        raise DataError(
            f"{column}[{index}] has the keys {sorted(message)}; a message needs 'role' and 'content'"
        )
    return canonical(message, f"{column}[{index}]")


def tools(row: Mapping[str, Any]) -> list[Any] | None:
    tools = row.get("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except json.JSONDecodeError as error:
            raise DataError(f"column 'tools' is text that is not JSON: {error}") from error
    return tools or None


def template_kwargs(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return row.get("chat_template_kwargs") or {}


def no_column(row: Mapping[str, Any], missing: list[str]) -> str:
    return f"no column {' or '.join(map(repr, missing))}; it has {listed(row)}{_hint(row, missing)}"


def no_format(row: Mapping[str, Any]) -> str:
    pairs = ", ".join(f"'{a}' and '{b}'" for a, b in (("prompt", "completion"), *PAIRS))
    wanted = {c for pair in PAIRS for c in pair} | {"prompt", "completion", "messages", "text"}
    return (
        f"it has the columns {listed(row)}, and none of what supervised training reads: 'messages'; 'text'; "
        f"{pairs}{_hint(row, wanted - row.keys())}. Or name the columns: data.train.input_key and output_key"
    )


def no_prompt(row: Mapping[str, Any]) -> str:
    return (
        f"it has the columns {listed(row)}, and no prompt: one of {', '.join(PROMPT_COLUMNS)}"
        f"{_hint(row, PROMPT_COLUMNS)}. Or name the column: data.train.input_key"
    )


def listed(row: Mapping[str, Any]) -> str:
    return ", ".join(c if v is not None else f"{c} (null)" for c, v in row.items()) or "no columns"


def _hint(row: Mapping[str, Any], wanted: Any) -> str:
    for column in row:
        if close := difflib.get_close_matches(column, sorted(wanted), n=1, cutoff=0.75):
            return f" (is '{column}' meant to be '{close[0]}'?)"
    return ""
