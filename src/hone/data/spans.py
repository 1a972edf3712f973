"""Where the assistant's turns are in a rendered conversation, for any chat template.

The conversation is rendered up to a turn, and the whole must begin with that. Where it does not, because
the template renders earlier turns differently once others follow (Qwen3 drops their reasoning), a probe in
place of the turn's content shows where it sits. When that fails too the answer is None: never a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from hone.types import Message

Span = tuple[int, int]
_PROBE = "\ue000probe\ue001"
"""Private-use characters: no text that a template adds begins or ends with them."""


class Render(Protocol):
    """Renders some messages of one conversation, with the opening of an assistant turn when `generation`."""

    def __call__(self, messages: Sequence[Message], *, generation: bool = False) -> str: ...


def turn_span(render: Render, messages: list[Message], i: int, whole: str) -> Span | None:
    """Characters of `whole` that message i, an assistant's, has to produce: from the end of the generation
    prompt
    to the end of what closes the turn. None when this template does not tell."""
    start, end = _start(render, messages, i, whole), _end(render, messages, i, whole)
    return None if start is None or end is None or end < start else (start, end)


def common_length(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many leading elements are the same."""
    n = min(len(a), len(b))
    return next((k for k in range(n) if a[k] != b[k]), n)


def _start(render: Render, messages: list[Message], i: int, whole: str) -> int | None:
    if i == 0:  # many templates cannot render an empty conversation
        return common_length(whole, render(_probed(messages, i)))
    asked = render(messages[:i], generation=True)
    if whole.startswith(asked):
        return len(asked)
    before = render(messages[:i])
    if whole.startswith(before):  # the turn lacks what the generation prompt opens, such as <think>
        return common_length(asked, whole)
    opening = asked[len(before) :] if asked.startswith(before) else ""
    content = common_length(whole, render(_probed(messages, i)))
    at = whole.rfind(opening, 0, content) if opening else -1
    return at + len(opening) if at >= 0 else None


def _end(render: Render, messages: list[Message], i: int, whole: str) -> int | None:
    if i == len(messages) - 1:
        return len(whole)
    upto = render(messages[: i + 1])
    if whole.startswith(upto):
        return len(upto)
    probed = _probed(messages, i)
    _, found, rest = render(probed).partition(_PROBE)
    _, found_alone, closing = render(probed[: i + 1]).partition(_PROBE)
    if not (found and found_alone and whole.endswith(rest) and rest.startswith(closing)):
        return None
    return len(whole) - len(rest) + len(closing)


def _probed(messages: list[Message], i: int) -> list[Message]:
    return [*messages[:i], {**messages[i], "content": _PROBE}, *messages[i + 1 :]]
