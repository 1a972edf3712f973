"""Check that a rendered conversation contains what its messages contain, and that the right parts are targets.

Every message's text, reasoning and tool calls are searched for in the output of the chat template and in the spans
that are targets. A row is refused if the template loses a message or a call, since training would then teach something
else. What many templates do on purpose (leaving out the reasoning of earlier turns) is a `Finding`, which is counted
and reported.
"""

from __future__ import annotations

import json
import re
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from typing import Any

from hone.chat_template import REASONING, garbled
from hone.data.assistant_spans import Span, joined
from hone.errors import DataError
from hone.types import Message

_LONG = 24
"""A text of at least this many characters does not occur twice in a rendering by chance."""
_WORDS = {
    "dropped": "is left out",
    "changed": "is changed",
    "doubled": "is written twice",
    "untrained": "is not trained on",
    "trained": "is trained on",
}


@dataclass(frozen=True)
class Finding:
    """A difference between a row and its rendering, or its targets."""

    message: int
    """Index in the conversation that was rendered."""
    role: str
    part: str
    """`content`, `reasoning`, `tool call NAME`, `argument of tool call NAME`, `text beside a call`, `end of turn`,
    `end of text`, `definition of tools`."""
    what: str
    """`dropped`; `changed`: only some of its lines are there; `doubled`; `untrained`: should be a target, but is not;
    `trained`: is a target, but should not be."""

    @property
    def kind(self) -> str:
        """The part and the difference, without the tool's name."""
        return f"{re.sub('tool call .*', 'tool call', self.part)} {self.what}"

    def __str__(self) -> str:
        return f"{self.part} of message {self.message} ({self.role}) {_WORDS[self.what]}"

    @property
    def fatal(self) -> bool:
        """Whether the row is refused: the rendering would teach something else than the row."""
        if self.part.startswith("tool call"):
            return self.what in ("dropped", "changed")
        return self.part == "content" and self.what == "dropped"


@dataclass(frozen=True)
class _Piece:
    """One text of a message: the content, the reasoning, or the name, a key or a value of a tool call."""

    part: str
    text: str

    def variants(self) -> Iterator[str]:
        """The text as it is, then as JSON: templates write tools' results and arguments of calls as JSON."""
        yield self.text
        if self.part != "reasoning":
            yield from (json.dumps(self.text, ensure_ascii=ascii_only)[1:-1] for ascii_only in (False, True))


def check(
    messages: Sequence[Message],
    text: str,
    spans: Sequence[Span],
    trained: Sequence[int],
    name: str,
    tools: Any = None,
) -> list[Finding]:
    """Every difference between the messages and their rendering `text`.

    `spans` are the ranges of characters of `text` that are targets, in order; `trained` are the indices of the messages
    that should be targets; `name` is the tokenizer's name in the error. Raises DataError if content was lost.
    """
    found = _findings(messages, _Rendering(text, spans), trained)
    for finding in found:
        if finding.fatal:
            raise DataError(_refusal(finding, name))
    functions = [tool.get("function") for tool in tools or () if isinstance(tool, Mapping)]
    names = [function.get("name") for function in functions if isinstance(function, Mapping)]
    if any(str(tool) not in text for tool in names):
        found.append(Finding(0, messages[0]["role"], "definition of tools", "dropped"))
    return found


@dataclass
class _Rendering:
    """A rendered conversation that is searched for the pieces of its messages in order."""

    text: str
    spans: Sequence[Span]
    """The targets, in order."""
    cursor: int = 0
    """The end of the last piece that was found."""
    located: list[Span] = field(default_factory=list)
    """The spans of all pieces that were found."""

    def locate(self, piece: _Piece, own: Sequence[Span] | None) -> str | None:
        """Find the next piece, and return what is wrong with it (`Finding.what`), or None.

        `own` are the targets of the piece's turn; None if the piece should not be a target.
        """
        if own is not None:
            for span in own:
                if at := self._find(piece, *span):
                    return self._note(at)
            at = self._find(piece, self.cursor, len(self.text))
            return self._note(at, "untrained") if at else self._lost(piece, own)
        at, is_target = self._find_outside_targets(piece, self.cursor)
        if at:
            return self._note(at)
        if self.cursor:  # some templates write the system message later
            at, is_target = self._find_outside_targets(piece, 0)
            if at:
                self.located.append(at)
                return None
        return "trained" if is_target else self._lost(piece, [(0, len(self.text))])

    def _note(self, at: Span, what: str | None = None) -> str | None:
        self.located.append(at)
        self.cursor = at[1]
        return what

    def _find(self, piece: _Piece, start: int, end: int) -> Span | None:
        for variant in piece.variants():
            if (at := self.text.find(variant, start, end)) >= 0:
                return at, at + len(variant)
        return None

    def _find_outside_targets(self, piece: _Piece, start: int) -> tuple[Span | None, bool]:
        """The first place of a piece outside the targets, and whether a target before that place holds it."""
        is_target = False
        while at := self._find(piece, start, len(self.text)):
            before = bisect(self.spans, (at[0], inf)) - 1
            if before < 0 or at[0] >= self.spans[before][1]:
                return at, is_target
            is_target, start = True, self.spans[before][1]
        return None, is_target

    def _lost(self, piece: _Piece, within: Sequence[Span]) -> str:
        """`dropped` if all of a piece is lost, `changed` if some of its lines are there."""
        region = "\n".join(self.text[start:end] for start, end in within).lower()
        lines = [line.strip() for line in piece.text.lower().splitlines()]
        return "changed" if any(line in region for line in lines if len(line) > 2) else "dropped"

    def rest(self) -> str:
        """The rendered text without the pieces that were found."""
        taken = joined(sorted(self.located))
        return "\0".join(self.text[a:b] for (_, a), (b, _) in pairwise([(0, 0), *taken, (len(self.text), 0)]))


def _findings(messages: Sequence[Message], rendering: _Rendering, trained: Sequence[int]) -> list[Finding]:
    spans = rendering.spans
    turns = {i: [spans[k]] if len(spans) == len(trained) else spans for k, i in enumerate(trained)}
    found: list[Finding] = []
    written: list[tuple[int, _Piece]] = []
    starts, firsts = [], []
    for i, message in enumerate(messages):
        starts.append(rendering.cursor)
        before = len(rendering.located)
        for piece in pieces(message):
            if (what := rendering.locate(piece, turns.get(i))) is None:
                written.append((i, piece))
            else:
                found.append(Finding(i, message["role"], piece.part, what))
        firsts.append(min(rendering.located[before:], default=(len(rendering.text), 0))[0])
    rest = rendering.rest()
    for i, piece in written:
        if len(piece.text) >= _LONG and piece.text in rest:
            found.append(Finding(i, messages[i]["role"], piece.part, "doubled"))
    for i, message in enumerate(messages):
        if message.get("tool_calls"):
            end = next((at for at in firsts[i + 1 :] if at >= starts[i]), len(rendering.text))
            found += _garbled_calls(i, message, rendering.text[starts[i] : end])
    return sorted(found, key=lambda finding: finding.message)


def pieces(message: Message) -> list[_Piece]:
    """The texts of a message."""
    content = text_of(message.get("content")).strip()
    found = []
    if message["role"] == "assistant":
        found += [_Piece("reasoning", str(message[k]).strip()) for k in REASONING if message.get(k)]
        if "</think>" in content:
            thought, _, content = content.rpartition("</think>")
            found.append(_Piece("reasoning", thought.strip().removeprefix("<think>").strip()))
            content = content.strip()
    calls = message.get("tool_calls") or []
    found.append(_Piece("text beside a call" if calls else "content", content))
    for call in calls:
        function = call["function"]
        label = f"tool call {function['name']}"
        arguments = _object(function["arguments"])
        found += [_Piece(label, text) for text in (function["name"], *map(str, arguments))]
        found += [_Piece(f"argument of {label}", text) for text in _texts(arguments)]
    return [piece for piece in found if piece.text]


def text_of(content: Any) -> str:
    """The content of a message as text; content may be a list of parts."""
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


def _garbled_calls(i: int, message: Message, written: str) -> Iterator[Finding]:
    """The calls of message i whose arguments are not valid JSON in `written`, the rendering between its neighbours.
    The message's content, which may quote JSON or Python, is not searched."""
    for piece in pieces(message):
        if "tool call" not in piece.part:
            written = written.replace(piece.text, "")
    functions = [call["function"] for call in message["tool_calls"]]
    given = json.dumps([_object(function["arguments"]) for function in functions])
    for function in functions:
        keys = map(str, _object(function["arguments"]))
        if any(garbled(written, key) and not garbled(given, key) for key in keys):
            yield Finding(i, message["role"], f"tool call {function['name']}", "changed")


def _refusal(finding: Finding, name: str) -> str:
    fix = "Give a template that writes it in policy.tokenizer.chat_template"
    if finding.part.startswith("tool call"):
        lost = "does not write" if finding.what == "dropped" else "garbles"
        return f"the chat template of {name} {lost} the {finding.part} of message {finding.message}. {fix}"
    return (
        f"the chat template of {name} leaves out the content of message {finding.message} ({finding.role}). {fix}, or "
        "remove such messages"
    )
