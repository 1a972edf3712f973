"""Findings in the renderings of many rows, and which rows have to be rendered to find them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from hone.data.render_check import Finding, text_of
from hone.types import Message


class FindingLog:
    """The first finding of each kind among many rows, each reported once."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self._reported: set[str] = set()

    def add(self, location: str, found: Sequence[Finding]) -> None:
        """Record what was found in the row at `location`."""
        for finding in found:
            self._first.setdefault(finding.kind, f"{location}: {finding}")

    def unreported(self) -> list[str]:
        """A sentence for each kind that was not reported yet."""
        new = {kind: text for kind, text in self._first.items() if kind not in self._reported}
        self._reported.update(new)
        return [f"{text}{_WHY.get(kind, '')}" for kind, text in new.items()]


class ConversationKinds:
    """The kinds of conversations seen so far. A template treats conversations alike whose messages have the same
    roles, keys and order of roles, and hold reasoning or not. So the first of each kind shows how the template
    renders it, or that it refuses it."""

    def __init__(self) -> None:
        self._met: set[Any] = set()

    def is_new(self, messages: str | Sequence[Message]) -> bool:
        """Whether this is the first conversation of its kind; a text is of no kind."""
        if isinstance(messages, str) or not messages:
            return False
        thinking = any(m["role"] == "assistant" and "</think>" in text_of(m.get("content")) for m in messages)
        order = frozenset(pairwise([None, *(m["role"] for m in messages), None]))
        kind = (order, frozenset((m["role"], *m) for m in messages), thinking, len(messages) > 3)
        if kind in self._met:
            return False
        self._met.add(kind)
        return True


_WHY = {
    "reasoning dropped": (
        " by the chat template (most leave out that of earlier turns). Where such a turn is trained on, it is an "
        "answer without it: split conversations before each question, or set only_unmask_final=true"
    ),
    "text beside a call dropped": " by the chat template",
    "end of text untrained": (
        ": the tokenizer has no end-of-sequence token, so nothing teaches the model to stop there"
    ),
    "end of turn untrained": (
        ": the chat template ends it with no special token, so nothing teaches the model to stop there"
    ),
}
