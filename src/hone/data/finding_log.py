"""Collect findings of many rows, and decide which rows must be rendered to find them."""

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
        """Record the findings of the row at `location`."""
        for finding in found:
            self._first.setdefault(finding.kind, f"{location}: {finding}")

    def unreported(self) -> list[str]:
        """One sentence for each kind that was not reported yet."""
        new = {kind: text for kind, text in self._first.items() if kind not in self._reported}
        self._reported.update(new)
        return [f"{text}{_WHY.get(kind, '')}" for kind, text in new.items()]


class ConversationKinds:
    """The kinds of conversations seen so far. A kind is the roles, their order, the messages' keys, and whether there
    is reasoning. A template treats conversations of one kind alike, so only the first must be rendered to check it."""

    def __init__(self) -> None:
        self._seen: set[Any] = set()

    def is_new(self, messages: str | Sequence[Message]) -> bool:
        """Whether this is the first conversation of its kind; False for plain text."""
        if isinstance(messages, str) or not messages:
            return False
        thinking = any(m["role"] == "assistant" and "</think>" in text_of(m.get("content")) for m in messages)
        order = frozenset(pairwise([None, *(m["role"] for m in messages), None]))
        kind = (order, frozenset((m["role"], *m) for m in messages), thinking, len(messages) > 3)
        if kind in self._seen:
            return False
        self._seen.add(kind)
        return True


_WHY = {
    "reasoning dropped": (
        " by the chat template (most leave out the reasoning of earlier turns). If such a turn is trained on, the "
        "model learns to answer without reasoning: split conversations before each question, or set "
        "only_unmask_final=true"
    ),
    "text beside a call dropped": " by the chat template",
    "end of text untrained": (
        ": the tokenizer has no end-of-sequence token, so the model does not learn to stop there"
    ),
    "end of turn untrained": (
        ": the chat template writes no special token there, so the model does not learn to stop there"
    ),
}
