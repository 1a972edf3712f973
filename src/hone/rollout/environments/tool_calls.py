"""What a model said, as a message with its tool calls.

The tokenizer's own `response_template` says how, where it has one (transformers 5). Else the forms of `tool_formats`
are read, in what stands behind the model's thoughts: a call that it only thought of is none. A call that begins and
cannot be read is a call still: `error` says why, and the model is told; those beside it are run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hone.rollout.environments.tool_formats import find
from hone.rollout.environments.tool_reading import Found, Malformed, values
from hone.rollout.prompt_prefix import begun_at
from hone.types import Message

_THOUGHTS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
)
TURN_ENDS = (
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|eot|>", "<|end|>", "<|return|>", "<|call|>", "</s>",
    "<|end_of_text|>", "<|endoftext|>", "<end_of_turn>", "<turn|>", "<|tool_response>", "<|observation|>",
    "<|user|>", "<｜end▁of▁sentence｜>", "<|END_OF_TURN_TOKEN|>",
)  # fmt: skip
"""Tokens with which models end a turn, or hand it to a tool."""
_TAIL = 32  # tokens of a prompt in which it may open a thought


def message_of(
    tokenizer: Any, text: str, tokens: Sequence[int], prefix: Sequence[int], schemas: list[Any]
) -> Message:
    """The assistant's message. `text` is what `tokens` say, with special tokens; what ends the turn is no part of it.
    `prefix`: the tokens before. Without `schemas` nothing is a call."""
    if not schemas:
        return {"role": "assistant", "content": text}
    if getattr(tokenizer, "response_template", None) is not None:
        own = _by_template(tokenizer, tokens, prefix, schemas)
        if own is not None:
            return own
    text = without_end(text)
    start = _behind_thoughts(text, tokenizer.decode(list(prefix[-_TAIL:])))
    found = find(text[start:], types_of(schemas))
    if found is None:
        return {"role": "assistant", "content": text}
    at, calls = found
    return {
        "role": "assistant",
        "content": text[: start + at].rstrip(),
        "tool_calls": [_call(call) for call in calls],
    }


def types_of(schemas: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each tool: the JSON Schemas of its parameters."""
    functions = [schema["function"] for schema in schemas]
    return {f["name"]: dict((f.get("parameters") or {}).get("properties") or {}) for f in functions}


def without_end(text: str) -> str:
    """The text without the tokens that end a turn."""
    while True:
        ended = text.rstrip()
        end = next((end for end in TURN_ENDS if ended.endswith(end)), None)
        if end is None:
            return text
        text = ended[: -len(end)]


def _behind_thoughts(text: str, before: str) -> int:
    """Where the last thought ends; the text's end where it does not. `before`: what the text goes on from."""
    start, begun = 0, begun_at(before).strip()
    for opened, closed in _THOUGHTS:
        last_open, last_closed = text.rfind(opened), text.rfind(closed)
        if last_closed >= 0 and last_closed > last_open:
            start = max(start, last_closed + len(closed))
        elif last_open >= 0 or begun == opened:
            return len(text)
    return start


def _by_template(
    tokenizer: Any, tokens: Sequence[int], prefix: Sequence[int], schemas: list[Any]
) -> Message | None:
    """As the tokenizer reads it; None where it cannot."""
    try:
        message = tokenizer.parse_response(list(tokens), prefix=list(prefix), tools=schemas)
        if not isinstance(message, dict):
            return None
        found = [call.get("function", call) for call in message.get("tool_calls") or []]
        calls = [_call(Found(call["name"], call.get("arguments", call.get("parameters")))) for call in found]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    kept = {k: v for k, v in message.items() if k != "tool_calls"}
    kept = {"role": "assistant", "content": "", **kept}
    return kept | ({"tool_calls": calls} if calls else {})


def _call(found: Found) -> dict[str, Any]:
    """A call as chat templates take it."""
    arguments, error = found.arguments, found.error
    if error is None and isinstance(arguments, str):
        try:
            arguments = next(values(arguments), None) if arguments.strip() else None
        except Malformed as malformed:
            error = str(malformed)
    arguments = {} if arguments is None else arguments
    if error is None and not isinstance(arguments, dict):
        error = f"the arguments of {found.name} are no JSON object"
    call: dict[str, Any] = {"type": "function", "function": {"name": found.name, "arguments": arguments}}
    if error is not None:
        call = {"type": "function", "function": {"name": found.name, "arguments": {}}, "error": error}
    if found.id is not None:
        call["id"] = found.id
    return call
