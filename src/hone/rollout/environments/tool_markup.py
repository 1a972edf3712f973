"""Tool calls between tags; the arguments are text or JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from hone.rollout.environments.tool_reading import (
    Malformed,
    ParameterSchemas,
    ParsedCall,
    json_arguments,
    json_calls,
    typed,
    values,
)

INVOKE = re.compile(r'<[^\s<>/]{0,40}invoke name="([^"<>]{1,200})"\s*>')
_INVOKED = re.compile(r"</[^\s<>]{0,40}invoke>")
_PARAMETER = re.compile(r'<[^\s<>/]{0,40}parameter name="([^"<>]{1,200})"[^<>]{0,80}>')
_PARAMETER_END = re.compile(r"</[^\s<>]{0,40}parameter>")


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
