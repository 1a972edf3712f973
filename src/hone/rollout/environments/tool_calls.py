"""Parses a model's turn into a message with tool calls.

The tokenizer's `response_template` is used where it has one (transformers 5). Otherwise the formats of tool_formats.py
are tried on the text after the model's thoughts: a call inside a thought does not count. A call that cannot be parsed
has an `error`, which the model receives as its result; the other calls run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hone.rollout.environments.tool_formats import find
from hone.rollout.environments.tool_reading import Malformed, ParsedCall, values
from hone.rollout.prompt_prefix import prefill_at_end
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
"""Tokens that end a model's turn, or its turn before a tool's result."""
_TAIL = 32  # tokens at the end of a prompt that may open a thought
Tokens = Sequence[int]


def message_of(tokenizer: Any, text: str, tokens: Tokens, prefix: Tokens, schemas: list[Any]) -> Message:
    """The assistant's message. `text`: the decoded `tokens`, with special tokens; `prefix`: the tokens before. The
    token that ends the turn is left out. Without `schemas` there are no calls."""
    if not schemas:
        return {"role": "assistant", "content": text}
    if getattr(tokenizer, "response_template", None) is not None:
        parsed = _parse_by_template(tokenizer, tokens, prefix, schemas)
        if parsed is not None:
            return parsed
    text = without_end(text)
    start = _end_of_thoughts(text, tokenizer.decode(list(prefix[-_TAIL:])))
    found = find(text[start:], types_of(schemas))
    if found is None:
        return {"role": "assistant", "content": text}
    content, calls = text[: start + found[0]].rstrip(), [_call(call) for call in found[1]]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def types_of(schemas: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The JSON Schemas of each tool's parameters."""
    functions = [schema["function"] for schema in schemas]
    return {f["name"]: dict((f.get("parameters") or {}).get("properties") or {}) for f in functions}


def without_end(text: str) -> str:
    """The text without the tokens that end a turn."""
    while end := next((end for end in TURN_ENDS if text.rstrip().endswith(end)), None):
        text = text.rstrip()[: -len(end)]
    return text


def _end_of_thoughts(text: str, before: str) -> int:
    """The position where the last thought ends; the end of the text if it is open. `before`: the text before it."""
    start, begun = 0, prefill_at_end(before).strip()
    for start_tag, end_tag in _THOUGHTS:
        last_open, last_closed = text.rfind(start_tag), text.rfind(end_tag)
        if last_closed >= 0 and last_closed > last_open:
            start = max(start, last_closed + len(end_tag))
        elif last_open >= 0 or begun == start_tag:
            return len(text)
    return start


def _parse_by_template(tokenizer: Any, tokens: Tokens, prefix: Tokens, schemas: list[Any]) -> Message | None:
    """The message as the tokenizer parses it; None if it cannot."""
    try:
        message = tokenizer.parse_response(list(tokens), prefix=list(prefix), tools=schemas)
        if not isinstance(message, dict):
            return None
        found = [call.get("function", call) for call in message.get("tool_calls") or []]
        calls = [_call(ParsedCall(f["name"], f.get("arguments", f.get("parameters")))) for f in found]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    kept = {k: v for k, v in message.items() if k != "tool_calls"}
    kept = {"role": "assistant", "content": "", **kept}
    return kept | ({"tool_calls": calls} if calls else {})


def _call(found: ParsedCall) -> dict[str, Any]:
    """The call in the form of chat templates."""
    arguments, error = found.arguments, found.error
    if error is None and isinstance(arguments, str):
        try:
            arguments = next(values(arguments), None) if arguments.strip() else None
        except Malformed as malformed:
            error = str(malformed)
    arguments = {} if arguments is None else arguments
    if error is None and not isinstance(arguments, dict):
        error = f"the arguments of {found.name} are not a JSON object"
    function = {"name": found.name, "arguments": arguments if error is None else {}}
    more = {"error": error, "id": found.id}
    return {"type": "function", "function": function} | {k: v for k, v in more.items() if v is not None}
