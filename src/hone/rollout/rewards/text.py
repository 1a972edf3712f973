"""Extracts answers from completions and from gold columns in several conventions. All scans are linear."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from hone.rollout.rewards.numerals import as_number

_FENCE = re.compile(r" {0,3}(`{3,})(.*)")
_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*")
_BETWEEN_BOXES = re.compile(r"(?:\\?[$,;()\s]|\\text\{\s*(?:and|or)\s*\}|\b(?:and|or)\b|[a-zA-Z]\s*=)*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_MAX_BOX = 10_000  # characters; longer contents are no answer
_LAST_BOXES = 8  # earlier boxes are ignored
_BETWEEN = 40  # characters between two boxes of one answer
_STATED = re.compile(r"(?i)\banswers?\b[^\n:=]{0,40}?(?:\bis\b|\bare\b|[:=])[\s*:]*(?=([^\n]{1,1000}))")
_SENTENCE_END = re.compile(r"[.;!?](?=\s|$)|,(?=\s+[a-zA-Z])")


def text_of(completion: str | list[dict[str, Any]]) -> str:
    """The text of a completion; the content of the last assistant message if it is conversational."""
    if isinstance(completion, str):
        return completion
    messages = [message for message in completion if message.get("role") == "assistant"] or completion
    content = messages[-1].get("content") if messages else ""
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    return content or ""


def texts_of(completions: Sequence[Any], prefills: Sequence[str] | None = None) -> list[str]:
    """The text of each completion, after its prefill (the beginning that the prompt contains, such as `<think>`)."""
    prefills = prefills if prefills is not None else [""] * len(completions)
    return [prefill + text_of(completion) for prefill, completion in zip(prefills, completions, strict=True)]


def answers_of(completions: Sequence[Any], prefills: Sequence[str] | None = None) -> list[str]:
    """As `texts_of`, after the last `</think>`."""
    return [after_thought(text) for text in texts_of(completions, prefills)]


def answer_tag(text: str) -> str | None:
    """The content of the last `<answer>…</answer>`, stripped; None without one."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, end) if end >= 0 else -1
    return text[start + len("<answer>") : end].strip() if start >= 0 else None


def boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{…}` (or `\fbox{…}`, `\boxed 5`), with balanced braces.

    Boxes separated only by "and", "or" or a comma are one answer: `3, 4`. None without a box, and if the last one is
    not closed.
    """
    boxes = _boxes(text)
    if not boxes or boxes[-1] is None:
        return None
    start, _, inner = boxes[-1]
    parts = [inner]
    for box in reversed(boxes[:-1]):
        if box is None or start - box[1] > _BETWEEN or not _BETWEEN_BOXES.fullmatch(text, box[1], start):
            break
        parts, start = [box[2], *parts], box[0]
    return ", ".join(dict.fromkeys(parts)).strip()


def has_box(text: str) -> bool:
    """Whether a box is opened, closed or not."""
    return _BOX.search(text) is not None


def _boxes(text: str) -> list[tuple[int, int, str] | None]:
    """The last boxes as (start, end, content); None for an unclosed one. Of nested boxes, only the inner one."""
    starts = list(_BOX.finditer(text))[-_LAST_BOXES:]
    found: list[tuple[int, int, str] | None] = []
    for here, following in zip(starts, [*starts[1:], None], strict=False):
        if not text.startswith("{", here.end()):
            bare = re.compile(r"[^\s$.,;]+").match(text, here.end())
            found.append((here.start(), bare.end(), bare[0]) if bare else None)
            continue
        end = _closing(text, here.end())
        if following is not None and (end is None or end > following.start()):
            continue  # another box in this one
        found.append(None if end is None else (here.start(), end, text[here.end() + 1 : end - 1].strip()))
    return found


def _closing(text: str, start: int) -> int | None:
    """The index after the brace that closes the one at `start`; None if it is not closed. `\\{` is text."""
    depth = 0
    for brace in _BRACE.finditer(text, start, start + _MAX_BOX):
        depth += (brace[0] == "{") - (brace[0] == "}")
        if depth == 0:
            return brace.end()
    return None


def after_thought(text: str) -> str:
    """The text after the last `</think>`; all of it without one."""
    return text.rpartition("</think>")[2]


def stated_answer(text: str) -> str | None:
    """The text after the last `####` (unless it is a heading) or the last "the answer is", to the end of the sentence;
    None without either."""
    if "####" in text:
        line, more, _ = text.rpartition("####")[2].strip().partition("\n")
        if not more or as_number(line) is not None:
            return line.strip()
    last = None
    for last in _STATED.finditer(text):  # noqa: B007
        pass
    if last is None:
        return None
    return _SENTENCE_END.split(last[1], maxsplit=1)[0].strip(" *\"'")


def gold_answer(gold: object) -> str | None:
    r"""The answer in a gold column: after GSM8K's `####`, in `<answer>`, in `\boxed{}`, or all of it. None for an empty
    or missing value, NaN, and values that are neither text nor numbers."""
    if isinstance(gold, bool) or not isinstance(gold, str | numbers.Real | Decimal):
        return None
    if not isinstance(gold, str) and not math.isfinite(gold):
        return None
    text = after_thought(str(gold)).strip()
    if "####" in text:
        return text.rpartition("####")[2].strip() or None
    for inner in (answer_tag(text), boxed(text)):
        if inner is not None:
            return inner or None
    return text or None


def same_answer(given: str, gold: str) -> bool:
    """Equal as numbers if both are numbers; else as text, ignoring case and runs of white space."""
    numbers_2 = as_number(given), as_number(gold)
    if None not in numbers_2:
        return numbers_2[0] == numbers_2[1]
    return given.casefold().split() == gold.casefold().split()


def fenced(text: str) -> str | None:
    """The content of the last closed Markdown fence (three or more backticks on their own line); None without one."""
    found, opened = None, ""
    inside: list[str] = []
    for line in text.split("\n"):
        mark = _FENCE.match(line)
        if opened and mark and mark.group(1).startswith(opened) and not mark.group(2).strip():
            found, opened = "\n".join(inside), ""
        elif opened:
            inside.append(line)
        elif mark:
            opened, inside = mark.group(1), []
    return found
