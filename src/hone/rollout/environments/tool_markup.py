"""Tool calls between tags, as many models write them: the arguments are text, or JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from hone.rollout.environments.tool_reading import (
    Found,
    Malformed,
    Types,
    json_arguments,
    json_calls,
    typed,
    values,
)

INVOKE = re.compile(r'<[^\s<>/]{0,40}invoke name="([^"<>]{1,200})"\s*>')
_INVOKED = re.compile(r"</[^\s<>]{0,40}invoke>")
_PARAMETER = re.compile(r'<[^\s<>/]{0,40}parameter name="([^"<>]{1,200})"[^<>]{0,80}>')
_PARAMETER_END = re.compile(r"</[^\s<>]{0,40}parameter>")


def tagged(text: str, types: Types) -> Iterator[Found]:
    """`<tool_call>…</tool_call>`, whatever stands in it."""
    for body in text.split("<tool_call>")[1:]:
        body, closed, _ = body.partition("</tool_call>")
        inner = body.strip()
        if inner.startswith(("<function=", "<function name=")):
            yield from functions(inner, types)
        elif "<arg_key>" in inner or re.fullmatch(r"[\w.-]+", inner):
            yield _with_keys(inner, types)
        elif closed or _is_whole(inner):
            yield from json_calls(inner)
        else:
            yield Found(error="a tool call has no </tool_call>")


def _is_whole(text: str) -> bool:
    try:
        return bool(list(values(text)))
    except Malformed:
        return False


def functions(text: str, types: Types) -> Iterator[Found]:
    """`<function=f>…</function>`, with parameters or with JSON in it."""
    for part in re.split(r"<function(?:=| name=)", text)[1:]:
        name, opened, rest = part.partition(">")
        name = name.strip().strip("\"'")
        body, closed, _ = rest.partition("</function>")
        if not opened:
            yield Found(error="a tool call's <function=…> is not closed")
        elif body.strip().startswith("{"):
            yield json_arguments(name, body)
        elif not closed and "</parameter>" not in body:
            yield Found(name, error="a tool call has no </function>")
        else:
            yield _with_parameters(name, re.split(r"<parameter(?:=| name=)", body)[1:], types)


def _with_parameters(name: str, parts: Sequence[str], types: Types) -> Found:
    pairs = []
    for part in parts:
        key, opened, rest = part.partition(">")
        value, closed, _ = rest.partition("</parameter>")
        if not (opened and closed):
            return Found(name, error=f"a parameter of {name} is not closed")
        pairs.append((key.strip().strip("\"'"), value.removeprefix("\n").removesuffix("\n")))
    return typed(name, pairs, types)


def _with_keys(text: str, types: Types) -> Found:
    name, *parts = text.split("<arg_key>")
    pairs = []
    for part in parts:
        key, closed, rest = part.partition("</arg_key>")
        value, ended, _ = rest.partition("<arg_value>")[2].partition("</arg_value>")
        if not (closed and ended):
            return Found(name.strip(), error=f"an argument of {name.strip()} is not closed")
        pairs.append((key.strip(), value))
    return typed(name.strip(), pairs, types)


def invokes(text: str, types: Types) -> Iterator[Found]:
    """`<invoke name="f">`, with any prefix before `invoke` and `parameter`."""
    starts = [*INVOKE.finditer(text)]
    for here, following in zip(starts, [*starts[1:], None], strict=True):
        body = text[here.end() : following.start() if following else len(text)]
        ended = _INVOKED.search(body)
        if ended is None:
            yield Found(here[1], error=f"the call of {here[1]} is not closed")
            continue
        yield _with_named_parameters(here[1], body[: ended.start()], types)


def _with_named_parameters(name: str, body: str, types: Types) -> Found:
    pairs = []
    starts = [*_PARAMETER.finditer(body)]
    for here, following in zip(starts, [*starts[1:], None], strict=True):
        part = body[here.end() : following.start() if following else len(body)]
        ended = _PARAMETER_END.search(part)
        if ended is None:
            return Found(name, error=f"a parameter of {name} is not closed")
        pairs.append((here[1], part[: ended.start()]))
    return typed(name, pairs, types)
