"""Whether a rendered conversation says what its messages say, and trains on what it should.

Every message's text, reasoning and tool calls are looked for in what the chat template wrote, and in the stretches
that are targets. A template that loses a message or a call would teach something else than the row says: that is
refused. What many templates do on purpose (leaving out the reasoning of earlier turns) is a `Finding`, which is counted
and told.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hone.chat_template import REASONING, garbled
from hone.data.assistant_spans import Span
from hone.errors import DataError
from hone.types import Message

_LONG = 24
"""A text of so many characters does not stand twice in a rendering by chance."""


@dataclass(frozen=True)
class Finding:
    """Something that the rendering of a row does not say, or train on, as the row does."""

    message: int
    """Its index in the conversation that was rendered."""
    role: str
    part: str
    """`content`, `reasoning`, `tool call NAME`, `argument of tool call NAME`, `text beside a call`, `end of turn`,
    `end of text`, `definition of tools`."""
    what: str
    """`dropped`; `changed`: only some of it is there; `doubled`; `untrained`: it is no target, and should be one;
    `trained`: it is one, and should not be."""

    @property
    def kind(self) -> str:
        """What findings of many rows have in common."""
        return f"{re.sub('tool call .*', 'tool call', self.part)} {self.what}"

    def __str__(self) -> str:
        return f"{self.part} of message {self.message} ({self.role}) {_WORDS[self.what]}"

    @property
    def fatal(self) -> bool:
        """Whether the rendering teaches something else than the row."""
        if self.part.startswith("tool call"):
            return self.what in ("dropped", "changed")
        return self.part == "content" and self.what == "dropped"


_WORDS = {
    "dropped": "is left out",
    "changed": "is written otherwise",
    "doubled": "is written twice",
    "untrained": "is not trained on",
    "trained": "is trained on",
}


@dataclass(frozen=True)
class _Piece:
    part: str
    text: str


def check(
    messages: Sequence[Message],
    text: str,
    spans: Sequence[Span],
    trained: Sequence[int],
    name: str,
    tools: Any = None,
) -> list[Finding]:
    """What the rendering does not say as the messages do. `spans` are the characters of `text` that are targets,
    `trained` the messages that should be. Raises DataError for what is lost; `name` is the tokenizer's."""
    found = list(_findings(messages, text, spans, trained))
    for finding in found:
        if finding.fatal:
            raise DataError(_refusal(finding, name))
    names = [t["function"]["name"] for t in tools or () if isinstance(t, Mapping) and "function" in t]
    if any(tool not in text for tool in names):
        found.append(Finding(0, messages[0]["role"], "definition of tools", "dropped"))
    return found


def _findings(
    messages: Sequence[Message], text: str, spans: Sequence[Span], trained: Sequence[int]
) -> Iterator[Finding]:
    turns = {i: [spans[k]] if len(spans) == len(trained) else spans for k, i in enumerate(trained)}
    cursor = 0
    every = "\n".join(piece.text for message in messages for piece in pieces(message))
    for i, message in enumerate(messages):
        for piece in pieces(message):
            what, cursor = _place(piece, text, cursor, spans, turns.get(i))
            if what is None and len(piece.text) >= _LONG and text.count(piece.text) > every.count(piece.text):
                what = "doubled"
            if what is not None:
                yield Finding(i, message["role"], piece.part, what)
        yield from _garbled_calls(i, message, text, turns.get(i))


def _place(
    piece: _Piece, text: str, cursor: int, spans: Sequence[Span], own: Sequence[Span] | None
) -> tuple[str | None, int]:
    """What is wrong with a piece, and from where to look for the next. `own`: where its turn's targets are, if it is
    trained on."""
    if own is not None:
        for start, end in own:
            if (at := _find(piece, text, start, end)) >= 0:
                return None, at
        at = _find(piece, text, cursor, len(text))
        return ("untrained", at) if at >= 0 else (_lost(piece, text, own), cursor)
    first, begin = -1, cursor
    while (at := _find(piece, text, begin, len(text))) >= 0:
        if not any(start <= at < end for start, end in spans):
            return None, at + len(piece.text)
        first, begin = max(first, at), at + 1
    if cursor:  # some templates put the system message further on
        return _place(piece, text, 0, spans, None)[0], cursor
    return ("trained" if first >= 0 else _lost(piece, text, [(0, len(text))])), cursor


def _find(piece: _Piece, text: str, start: int, end: int) -> int:
    at = text.find(piece.text, start, end)
    if at >= 0 or piece.part == "reasoning":
        return at
    for ascii_only in (False, True):  # tools' results, and arguments of calls
        quoted = json.dumps(piece.text, ensure_ascii=ascii_only)[1:-1]
        if quoted != piece.text and (at := text.find(quoted, start, end)) >= 0:
            return at
    return -1


def _lost(piece: _Piece, text: str, within: Sequence[Span]) -> str:
    """Whether all of it is lost."""
    region = "\n".join(text[start:end] for start, end in within).lower()
    lines = [line.strip() for line in piece.text.lower().splitlines()]
    return "changed" if any(line in region for line in lines if len(line) > 2) else "dropped"


def pieces(message: Message) -> list[_Piece]:
    """The texts that a message is made of."""
    content = text_of(message.get("content")).strip()
    found = []
    if message["role"] == "assistant":
        found += [_Piece("reasoning", str(message[k]).strip()) for k in REASONING if message.get(k)]
        if "</think>" in content:
            thought, _, content = content.rpartition("</think>")
            found.append(_Piece("reasoning", thought.strip().removeprefix("<think>").strip()))
            content = content.strip()
    calls = message.get("tool_calls") or []
    part = "text beside a call" if calls else "content"
    found.append(_Piece(part, content))
    for call in calls:
        function = call["function"]
        label = f"tool call {function['name']}"
        arguments = _object(function["arguments"])
        found += [_Piece(label, text) for text in (function["name"], *map(str, arguments))]
        found += [_Piece(f"argument of {label}", text) for text in _texts(arguments)]
    return [piece for piece in found if piece.text]


def text_of(content: Any) -> str:
    """Content as text, also where the template wants parts."""
    return content if isinstance(content, str) else "".join(part["text"] for part in content or ())


def _object(arguments: Any) -> Any:
    return json.loads(arguments) if isinstance(arguments, str) else arguments


def _texts(value: Any) -> Iterator[str]:
    """The texts in nested arguments."""
    if isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner)
    elif isinstance(value, str):
        yield value.strip()


def _garbled_calls(i: int, message: Message, text: str, own: Sequence[Span] | None) -> Iterator[Finding]:
    for call in message.get("tool_calls") or []:
        function = call["function"]
        arguments = _object(function["arguments"])
        written = "\n".join(text[start:end] for start, end in own or [(0, len(text))])
        said = json.dumps(arguments)
        if any(garbled(written, str(key)) and not garbled(said, str(key)) for key in arguments):
            yield Finding(i, message["role"], f"tool call {function['name']}", "changed")


def _refusal(finding: Finding, name: str) -> str:
    fix = "Give a template that writes it in policy.tokenizer.chat_template"
    if finding.part.startswith("tool call"):
        lost = "does not write" if finding.what == "dropped" else "garbles"
        return f"the chat template of {name} {lost} the {finding.part} of message {finding.message}. {fix}"
    return (
        f"the chat template of {name} leaves out the content of message {finding.message} ({finding.role}). {fix}, or "
        "leave such messages out"
    )


class Tally:
    """The first finding of each kind among many rows, each told once."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self._told: set[str] = set()

    def add(self, where: str, found: Sequence[Finding]) -> None:
        """Take note of what was found in a row; `where` names it."""
        for finding in found:
            self._first.setdefault(finding.kind, f"{where}: {finding}")

    def fresh(self) -> list[str]:
        """A sentence for each kind that was not told yet."""
        new = {kind: text for kind, text in self._first.items() if kind not in self._told}
        self._told.update(new)
        return [f"{text}{_WHY.get(kind, '')}" for kind, text in new.items()]


class Shapes:
    """Which kinds of conversations were met: those whose messages have the same roles, keys and thoughts are alike to a
    template. The first of each shows what a template does to them."""

    def __init__(self) -> None:
        self._met: set[Any] = set()

    def new(self, messages: str | Sequence[Message]) -> bool:
        """Whether the first conversation of its kind; a text is of no kind."""
        if isinstance(messages, str) or not messages:
            return False
        thinking = any(m["role"] == "assistant" and "</think>" in text_of(m.get("content")) for m in messages)
        kind = (frozenset((m["role"], *m) for m in messages), thinking, len(messages) > 3)
        if kind in self._met:
            return False
        self._met.add(kind)
        return True


_WHY = {
    "reasoning dropped": (
        " by the chat template (most leave out that of earlier turns). Where such a turn is trained on, it is an "
        "answer without it: split conversations before each question, or set sft.only_unmask_final=true"
    ),
    "text beside a call dropped": " by the chat template",
    "end of text untrained": (
        ": the tokenizer has no end-of-sequence token, so nothing teaches the model to stop there"
    ),
    "end of turn untrained": (
        ": the chat template ends it with no special token, so nothing teaches the model to stop there"
    ),
}
