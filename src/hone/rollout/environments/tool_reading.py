"""Parsers of tool calls: as JSON, and between tags with arguments as text or JSON."""

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
INVOKE = re.compile(r'<[^\s<>/]{0,40}invoke name="([^"<>]{1,200})"\s*>')
_INVOKED = re.compile(r"</[^\s<>]{0,40}invoke>")
_PARAMETER = re.compile(r'<[^\s<>/]{0,40}parameter name="([^"<>]{1,200})"[^<>]{0,80}>')
_PARAMETER_END = re.compile(r"</[^\s<>]{0,40}parameter>")


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


def tagged(text: str, types: ParameterSchemas) -> Iterator[ParsedCall]:
    """`<tool_call>…</tool_call>` with any content."""
    for body in text.split("<tool_call>")[1:]:
        body, ended, _ = body.partition("</tool_call>")
        inner = body.strip()
        if inner.startswith(("<function=", "<function name=")):
            yield from functions(inner, types)
        elif "<arg_key>" in inner or re.fullmatch(r"[\w.-]+", inner):
            yield _with_keys(inner, types)
        elif ended or _is_whole(inner):
            yield from json_calls(inner)
        else:
            yield ParsedCall(error="a tool call has no </tool_call>")


def _is_whole(text: str) -> bool:
    try:
        return bool(list(values(text)))
    except Malformed:
        return False


def functions(text: str, types: ParameterSchemas) -> Iterator[ParsedCall]:
    """`<function=f>…</function>` with parameters or JSON."""
    for part in re.split(r"<function(?:=| name=)", text)[1:]:
        name, opened, rest = part.partition(">")
        name = name.strip().strip("\"'")
        body, ended, _ = rest.partition("</function>")
        if not opened:
            yield ParsedCall(error="a tool call's <function=…> is not closed")
        elif body.strip().startswith("{"):
            yield json_arguments(name, body)
        elif not ended and "</parameter>" not in body:
            yield ParsedCall(name, error="a tool call has no </function>")
        else:
            yield _with_parameters(name, re.split(r"<parameter(?:=| name=)", body)[1:], types)


def _with_parameters(name: str, parts: Sequence[str], types: ParameterSchemas) -> ParsedCall:
    pairs = []
    for part in parts:
        key, opened, rest = part.partition(">")
        value, ended, _ = rest.partition("</parameter>")
        if not (opened and ended):
            return ParsedCall(name, error=f"a parameter of {name} is not closed")
        pairs.append((key.strip().strip("\"'"), value.removeprefix("\n").removesuffix("\n")))
    return typed(name, pairs, types)


def _with_keys(text: str, types: ParameterSchemas) -> ParsedCall:
    name, *parts = text.split("<arg_key>")
    pairs = []
    for part in parts:
        key, key_end, rest = part.partition("</arg_key>")
        value, value_end, _ = rest.partition("<arg_value>")[2].partition("</arg_value>")
        if not (key_end and value_end):
            return ParsedCall(name.strip(), error=f"an argument of {name.strip()} is not closed")
        pairs.append((key.strip(), value))
    return typed(name.strip(), pairs, types)


def invokes(text: str, types: ParameterSchemas) -> Iterator[ParsedCall]:
    """`<invoke name="f">` with any prefix before `invoke` and `parameter`."""
    starts = [*INVOKE.finditer(text)]
    for here, following in zip(starts, [*starts[1:], None], strict=True):
        body = text[here.end() : following.start() if following else len(text)]
        ended = _INVOKED.search(body)
        if ended is None:
            yield ParsedCall(here[1], error=f"the call of {here[1]} is not closed")
            continue
        yield _with_named_parameters(here[1], body[: ended.start()], types)


def _with_named_parameters(name: str, body: str, types: ParameterSchemas) -> ParsedCall:
    pairs = []
    starts = [*_PARAMETER.finditer(body)]
    for here, following in zip(starts, [*starts[1:], None], strict=True):
        part = body[here.end() : following.start() if following else len(body)]
        ended = _PARAMETER_END.search(part)
        if ended is None:
            return ParsedCall(name, error=f"a parameter of {name} is not closed")
        pairs.append((here[1], part[: ended.start()]))
    return typed(name, pairs, types)
