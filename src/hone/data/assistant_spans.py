"""Find the assistant's turns in a rendered conversation, for any chat template.

The conversation is rendered up to a turn; the result must be a prefix of the whole rendering. It is not if the template
renders earlier turns differently when others follow (Qwen3 drops their reasoning). In this case a probe text in place
of the turn's content shows where the turn is. If that fails too the result is None; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

import numpy as np

from hone.errors import DataError
from hone.types import Message

Span = tuple[int, int]
_PROBE = "\ue000probe\ue001"
"""Private-use characters: no template writes text that begins or ends with them."""


class Render(Protocol):
    """Renders messages of one conversation; with `generation`, the opening of an assistant turn follows."""

    def __call__(self, messages: Sequence[Message], *, generation: bool = False) -> str: ...


def turn_span(
    render: Render, messages: list[Message], i: int, whole: str, specials: tuple[str, ...]
) -> Span | None:
    """The span of `whole`, the rendered conversation, that the model generates as message i.

    It goes from the end of the generation prompt to the end of the turn's closing tokens. None if it cannot be found.
    """
    start, end = _start(render, messages, i, whole, specials), _end(render, messages, i, whole, specials)
    return None if start is None or end is None or end < start else (start, end)


def common_length(a: Sequence[Any], b: Sequence[Any]) -> int:
    """The length of the common prefix."""
    n = min(len(a), len(b))
    return next((k for k in range(n) if a[k] != b[k]), n)


def _start(
    render: Render, messages: list[Message], i: int, whole: str, specials: tuple[str, ...]
) -> int | None:
    if i == 0:  # many templates cannot render an empty conversation
        return common_length(whole, render(_probes(messages, i)[0]))
    asked = render(messages[:i], generation=True)
    if whole.startswith(asked):
        return len(asked)
    before = render(messages[:i])
    if whole.startswith(before):  # the turn lacks what the generation prompt opens, such as <think>
        starts = [common_length(asked, whole)]
        with suppress(DataError):  # a template may refuse content beside a call
            starts.append(common_length(render(_probes(messages, i)[0]), whole))
        return min(starts)  # the content may begin with the same letters as the opening
    opening = asked[len(before) :] if asked.startswith(before) else ""
    content = common_length(whole, render(_probes(messages, i)[0]))
    return _behind_opening(whole[:content], opening, specials) if opening else None


def _behind_opening(text: str, opening: str, specials: tuple[str, ...]) -> int | None:
    """The end of the last `opening` in the text, if only plain text follows it; otherwise the end of the text, if the
    text ends with the beginning of `opening`, special token included. None if neither holds."""
    at = text.rfind(opening)
    if at >= 0 and not any(s in text[at + len(opening) :] for s in specials):
        return at + len(opening)
    for length in range(len(opening) - 1, 0, -1):
        if text.endswith(opening[:length]):
            return len(text) if any(s in opening[:length] for s in specials) else None
    return None


def _end(
    render: Render, messages: list[Message], i: int, whole: str, specials: tuple[str, ...]
) -> int | None:
    if i == len(messages) - 1:
        return len(whole)
    upto = render(messages[: i + 1])
    if whole.startswith(upto):
        return len(upto)
    for probed in _probes(messages, i):
        try:
            _, found, rest = render(probed).partition(_PROBE)
        except DataError:  # the template needs the call that the probe lacks
            continue
        if not (found and whole.endswith(rest)):
            continue
        for generation in (False, True):  # a last turn may be closed in another way
            _, found, closing = render(probed[: i + 1], generation=generation).partition(_PROBE)
            length = _shared(rest, closing, specials, exact=not generation) if found else None
            if length is not None:
                return len(whole) - len(rest) + length
    return None


def _shared(rest: str, closing: str, specials: tuple[str, ...], *, exact: bool) -> int | None:
    """The number of characters of `rest` that close the turn: all of `closing` if `exact` and `rest` begins with it,
    otherwise up to the first special token that both have. None if there is none."""
    if exact and rest.startswith(closing):
        return len(closing)
    shared = rest[: common_length(rest, closing)]
    ends = [at + len(s) for s in specials if (at := shared.find(s)) >= 0]
    return min(ends, default=None)


def _probes(messages: list[Message], i: int) -> list[list[Message]]:
    """The conversation with the probe as content of turn i: first with the turn's other keys, then without them."""
    as_parts = isinstance(messages[i].get("content"), list)
    probe = [{"type": "text", "text": _PROBE}] if as_parts else _PROBE
    contents = ({**messages[i], "content": probe}, {"role": messages[i]["role"], "content": probe})
    return [[*messages[:i], message, *messages[i + 1 :]] for message in contents]


def joined(spans: Sequence[Span]) -> list[Span]:
    """The spans, with touching ones merged."""
    merged: list[Span] = []
    for start, end in spans:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], end)
        elif end > start:
            merged.append((start, end))
    return merged


def overlap(offsets: Sequence[Span], spans: Sequence[Span]) -> list[bool]:
    """Whether each token shares a character with a span. Tokens of white space may have empty offsets (Llama 3's
    tokenizer trims them): such a token begins where the token before it ended."""
    offsets_N2 = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    start, end = offsets_N2[:, 0], offsets_N2[:, 1]
    before = np.concatenate([[0], end[:-1]])
    start = np.where(end <= start, np.minimum(start, before), start)
    end = np.maximum(end, start + 1)
    mask = np.zeros(len(offsets_N2), dtype=bool)
    for begin, stop in spans:
        mask |= (start < stop) & (end > begin)
    return mask.tolist()
