"""Extractors: from the text of an answer to what is graded. A suite names one for `strict` and one for `flexible`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from hone.errors import ConfigError
from hone.evaluation.suite import Regex
from hone.rollout.rewards.numerals import last_number_text
from hone.rollout.rewards.text import after_thought, answer_tag, boxed, fenced, has_box, stated_answer

Extractor = Callable[[str, bool], str | None]
"""(the text after a thought, whether the prompt was a chat) -> the answer, or None if there is none."""


def _boxed(text: str, chat: bool) -> str | None:
    return boxed(text) or None


def _number(text: str, chat: bool) -> str | None:
    return last_number_text(text)


def _final_answer(text: str, chat: bool) -> str | None:
    """The last `<answer>`, else the last box, else what is stated ("the answer is …"), else the last number."""
    for found in (answer_tag(text), boxed(text)):
        if found:
            return found
    if has_box(text):  # not closed: the answer was truncated
        return None
    return stated_answer(text) or _number(text, chat)


def _program_strict(text: str, chat: bool) -> str | None:
    """Of a chat model the last fenced block, of a base model the continuation."""
    return fenced(text) if chat else text or None


def _program(text: str, chat: bool) -> str | None:
    block = fenced(text)
    return text or None if block is None else block


def _whole(text: str, chat: bool) -> str | None:
    return text


EXTRACTORS: dict[str, Extractor] = {
    "boxed": _boxed,
    "last_number": _number,
    "final_answer": _final_answer,
    "program_strict": _program_strict,
    "program": _program,
    "whole": _whole,
}


def extractor_of(given: str | Regex, suite: str) -> Extractor:
    """The extractor that a suite names. Raises ConfigError for an unknown name or a regular expression that is not one
    or has no group."""
    if isinstance(given, str):
        if given not in EXTRACTORS:
            raise ConfigError(
                f"suite {suite}: there is no extractor '{given}'; there are {', '.join(EXTRACTORS)}, or {{regex: …}}"
            )
        return EXTRACTORS[given]
    try:
        pattern = re.compile(given.regex)
    except re.error as error:
        raise ConfigError(f"suite {suite}: regex {given.regex!r}: {error}") from error
    if not pattern.groups:
        raise ConfigError(f"suite {suite}: regex {given.regex!r} has no group ( ) for the answer")

    def last_match(text: str, chat: bool) -> str | None:
        found = None
        for found in pattern.finditer(text):  # noqa: B007
            pass
        return None if found is None else found[1]

    return last_match


def answer_text(text: str, stop: Sequence[str]) -> str:
    """The text that is graded: after a thought, up to the first of the texts that end an answer."""
    return cut_at(after_thought(text), stop)


def cut_at(text: str, stop: Sequence[str]) -> str:
    """The text before the first of the stop texts."""
    ends = [at for mark in stop if (at := text.find(mark)) >= 0]
    return text[: min(ends)] if ends else text
