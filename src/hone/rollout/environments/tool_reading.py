"""Parsed tool calls, and the JSON of most formats."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


class Malformed(ValueError):
    """A tool call that cannot be parsed; the message is for the model."""


@dataclass(frozen=True)
class ParsedCall:
    """A tool call; `error` says why it cannot be parsed."""

    name: str = "unknown"
    arguments: Any = field(default_factory=dict)
    id: str | None = None
    error: str | None = None


ParameterSchemas = Mapping[str, Mapping[str, Any]]
"""Tool -> parameter -> JSON Schema."""
Reader = Callable[[str, ParameterSchemas], Iterator[ParsedCall]]
_SPACES = re.compile(r"[\s;,]*")
_DECODER = json.JSONDecoder()


def values(text: str) -> Iterator[Any]:
    """Adjacent JSON values, lists flattened. Raises Malformed."""
    at, first = 0, True
    while True:
        at = _SPACES.match(text, at).end()  # type: ignore[union-attr]  # it always matches
        if not first and (at == len(text) or text[at] not in "{["):
            return
        try:
            value, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise Malformed(f"a tool call is not JSON: {str(error)[:200]}") from None
        first = False
        yield from value if isinstance(value, list) else [value]


def json_calls(text: str) -> Iterator[ParsedCall]:
    """Calls as JSON. The first malformed call has an `error`; the text after it is skipped."""
    try:
        yield from map(_named, values(text))
    except Malformed as error:
        yield ParsedCall(error=str(error))


def _named(value: Any) -> ParsedCall:
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = {**value["function"], "id": value.get("id")}
    name = value.get("name", value.get("tool_name")) if isinstance(value, dict) else None
    if not isinstance(name, str):
        return ParsedCall(error="a tool call needs a name and arguments")
    id = value.get("id", value.get("tool_call_id"))
    arguments = value.get("arguments", value.get("parameters"))
    return ParsedCall(name, arguments, id if isinstance(id, str) else None)


def json_arguments(name: str, text: str) -> ParsedCall:
    """A call with a plain name and JSON arguments."""
    try:
        text = text.strip().removeprefix("```json").removeprefix("```").strip()
        return ParsedCall(name.strip(), next(values(text)))
    except Malformed as error:
        return ParsedCall(name.strip() or "unknown", error=str(error))
    except StopIteration:  # an empty list
        return ParsedCall(name.strip())


def typed(name: str, pairs: Sequence[tuple[str, str]], types: ParameterSchemas) -> ParsedCall:
    """A call with arguments as text: parsed as JSON, except parameters of type string."""
    schemas = types.get(name, {})
    return ParsedCall(name, {key: _value(text, schemas.get(key)) for key, text in pairs})


def _value(text: str, schema: Any) -> Any:
    if isinstance(schema, dict) and schema.get("type") == "string":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return {"True": True, "False": False, "None": None}.get(text, text)
