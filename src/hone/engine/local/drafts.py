"""Draft tokens for speculative decoding, found in the text itself (prompt lookup)."""

from __future__ import annotations

from collections.abc import Sequence

SHORTEST = 2
"""Tokens of the shortest n-gram that is looked up: after a single token, what follows is a guess."""


class NgramDrafter:
    """Proposes what followed the last tokens of a text when they occurred before: the longest n-gram, of at most
    `longest` tokens, and its latest earlier occurrence."""

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self._text: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}
        """Where each n-gram last ended, before the end of the text."""

    def propose(self, text: Sequence[int], count: int) -> list[int]:
        """At most `count` tokens that may follow `text`, which only grows from call to call."""
        for token in text[len(self._text) :]:
            for size in self._sizes():
                self._ends[tuple(self._text[-size:])] = len(self._text)
            self._text.append(token)
        for size in self._sizes():
            if (end := self._ends.get(tuple(self._text[-size:]))) is not None:
                return self._text[end : end + count]
        return []

    def _sizes(self) -> range:
        return range(min(self.longest, len(self._text)), SHORTEST - 1, -1)
