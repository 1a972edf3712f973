"""What a model said, as a message with its tool calls.

The tokenizer's own `response_template` says how, where it has one (transformers 5). Else these are read:

    <tool_call>{"name": …, "arguments": {…}}</tool_call>          Hermes, Qwen; any number of them
    [TOOL_CALLS][{"name": …, "arguments": {…}}, …]                Mistral; or [TOOL_CALLS]name[ARGS]{…}
    {"name": …, "parameters": {…}}   <|python_tag|>{…}            Llama 3, where it is all of the message

A call that begins and cannot be read is a call still: `error` says why, and the model is told. All scans are linear.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from hone.types import Message

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_MISTRAL, _ARGS, _PYTHON = "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>"
_DECODER = json.JSONDecoder()


class Malformed(ValueError):
    """A tool call that cannot be read; the message is for the model."""


def message_of(
    tokenizer: Any, text: str, tokens: Sequence[int], prefix: Sequence[int], schemas: list[Any]
) -> Message:
    """The assistant's message. `text` is what `tokens` say, with special tokens but without the end of the turn.
    Without `schemas` nothing is a call."""
    if not schemas:
        return {"role": "assistant", "content": text}
    if getattr(tokenizer, "response_template", None) is not None:
        own = _by_template(tokenizer, tokens, prefix, schemas)
        if own is not None:
            return own
    try:
        content, calls = _common(text)
    except Malformed as error:
        return {"role": "assistant", "content": text, "tool_calls": [_malformed(error)]}
    message: Message = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = calls
    return message


def _by_template(
    tokenizer: Any, tokens: Sequence[int], prefix: Sequence[int], schemas: list[Any]
) -> Message | None:
    """As the tokenizer reads it; None where it cannot."""
    try:
        message = tokenizer.parse_response(list(tokens), prefix=list(prefix), tools=schemas)
        if not isinstance(message, dict):
            return None
        calls = [_call(call.get("function", call)) for call in message.get("tool_calls") or []]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    kept = {k: v for k, v in message.items() if k != "tool_calls"}
    kept = {"role": "assistant", "content": "", **kept}
    return kept | ({"tool_calls": calls} if calls else {})


def _common(text: str) -> tuple[str, list[dict[str, Any]]]:
    """The content before the calls, and the calls. Raises Malformed."""
    if _OPEN in text:
        content, _, rest = text.partition(_OPEN)
        return content.rstrip(), [_call(_json(body)) for body in _between(rest)]
    if _MISTRAL in text:
        content, _, rest = text.partition(_MISTRAL)
        return content.rstrip(), _mistral(rest)
    bare = text.strip().removeprefix(_PYTHON).strip()
    if bare.startswith("{") and bare.endswith("}") and '"name"' in bare:
        found = _json(bare)
        if isinstance(found, dict) and ("parameters" in found or "arguments" in found):
            return "", [_call(found)]
    return text, []


def _between(rest: str) -> Iterator[str]:
    """The bodies of `<tool_call>…</tool_call>`; the first one is open already."""
    while True:
        body, closed, rest = rest.partition(_CLOSE)
        if not closed:
            raise Malformed(f"a tool call has no {_CLOSE}")
        yield body
        _, again, rest = rest.partition(_OPEN)
        if not again:
            return


def _mistral(rest: str) -> list[dict[str, Any]]:
    if _ARGS in rest:
        calls = []
        for part in rest.split(_MISTRAL):
            name, _, arguments = part.partition(_ARGS)
            calls.append(_call({"name": name.strip(), "arguments": _json(arguments)}))
        return calls
    found = _json(rest)
    return [_call(call) for call in (found if isinstance(found, list) else [found])]


def _json(text: str) -> Any:
    text = text.strip()
    try:
        return _DECODER.raw_decode(text)[0]
    except (ValueError, RecursionError) as error:
        raise Malformed(f"a tool call is no JSON: {str(error)[:200]}") from None


def _call(found: Any) -> dict[str, Any]:
    """A call as chat templates take it. Raises Malformed."""
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        raise Malformed("a tool call needs a name and arguments")
    arguments = found.get("arguments", found.get("parameters"))
    if isinstance(arguments, str):
        arguments = _json(arguments)
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise Malformed(f"the arguments of {found['name']} are no JSON object")
    call: dict[str, Any] = {"type": "function", "function": {"name": found["name"], "arguments": arguments}}
    if isinstance(found.get("id"), str):
        call["id"] = found["id"]
    return call


def _malformed(error: Malformed) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "unknown", "arguments": {}}, "error": str(error)}
