"""A tool call as it was written, and the JSON that most are written in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


class Malformed(ValueError):
    """A tool call that cannot be read; the message is for the model."""


@dataclass(frozen=True)
class Found:
    """A call as it was written; `error` says why it cannot be read."""

    name: str = "unknown"
    arguments: Any = field(default_factory=dict)
    id: str | None = None
    error: str | None = None


Types = Mapping[str, Mapping[str, Any]]
"""Of each tool: its parameters' JSON Schemas."""
Reader = Callable[[str, Types], Iterator[Found]]
_SPACES = re.compile(r"[\s;,]*")
_DECODER = json.JSONDecoder()


def values(text: str) -> Iterator[Any]:
    """The JSON values that stand side by side, lists opened. Raises Malformed."""
    at, first = 0, True
    while True:
        at = _SPACES.match(text, at).end()  # type: ignore[union-attr]  # it matches everywhere
        if not first and (at == len(text) or text[at] not in "{["):
            return
        try:
            value, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise Malformed(f"a tool call is no JSON: {str(error)[:200]}") from None
        first = False
        yield from value if isinstance(value, list) else [value]


def json_calls(text: str) -> Iterator[Found]:
    """Calls as JSON, as many as there are; what follows a broken one is lost, and that is told."""
    try:
        for value in values(text):
            yield _named(value)
    except Malformed as error:
        yield Found(error=str(error))


def _named(value: Any) -> Found:
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = {**value["function"], "id": value.get("id")}
    name = value.get("name", value.get("tool_name")) if isinstance(value, dict) else None
    if not isinstance(name, str):
        return Found(error="a tool call needs a name and arguments")
    ids = value.get("id", value.get("tool_call_id"))
    return Found(name, value.get("arguments", value.get("parameters")), ids if isinstance(ids, str) else None)


def json_arguments(name: str, text: str) -> Found:
    """A call whose arguments alone are JSON."""
    try:
        return Found(name.strip(), next(values(_unfenced(text))))
    except Malformed as error:
        return Found(name.strip() or "unknown", error=str(error))
    except StopIteration:  # an empty list
        return Found(name.strip())


def _unfenced(text: str) -> str:
    text = text.strip()
    return text.removeprefix("```json").removeprefix("```").strip()


def typed(name: str, pairs: Sequence[tuple[str, str]], types: Types) -> Found:
    """A call whose arguments were written as text: JSON, but for what the tool takes as text."""
    schemas = types.get(name, {})
    return Found(name, {key: _value(text, schemas.get(key)) for key, text in pairs})


def _value(text: str, schema: Any) -> Any:
    if isinstance(schema, dict) and schema.get("type") == "string":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return {"True": True, "False": False, "None": None}.get(text, text)
