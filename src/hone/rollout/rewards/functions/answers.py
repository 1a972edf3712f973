"""Rewards for right answers: as text, as a number, or as mathematics. None for rows without a readable gold answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from hone.rollout.rewards.functions.common import GOLD_COLUMNS, BadOption, golds
from hone.rollout.rewards.math_equivalence import MAX_ANSWER, Answer, same, same_in_text
from hone.rollout.rewards.numerals import as_number, last_number
from hone.rollout.rewards.text import answer_tag, answers_of, boxed, has_box, same_answer, stated_answer

_PLAIN_TAIL = 1000  # characters of an untagged completion that `math` searches for the answer
_WITH_UNIT = re.compile(r"(-?\$?[\d.,/]*\d%?)(?: [^\W\d_]+){1,3}")
_SEVERAL = re.compile(r"([-\d.,/\s]*\d,?\s+(?:and|or)\s+[-\d.,/]*\d)")
_EXTRACT = ("all", "answer", "boxed", "last_line")


def answer(
    completions: Sequence[Any],
    column: str | None = None,
    prefills: Sequence[str] | None = None,
    **columns: Any,
) -> list[float | None]:
    """1 if the last `<answer>…</answer>` equals the gold answer (as a number, or as text), else 0."""
    return [
        None if gold is None else float((given := answer_tag(text)) is not None and same_answer(given, gold))
        for text, gold in zip(answers_of(completions, prefills), golds(column, columns), strict=True)
    ]


def exact(
    completions: Sequence[Any],
    column: str | None = None,
    extract: str = "all",
    ignore_case: bool = False,
    prefills: Sequence[str] | None = None,
    **columns: Any,
) -> list[float | None]:
    r"""1 if the completion is the gold answer, character by character except for white space and thoughts, else 0.

    extract: which part of the completion: `all`, `answer` (the last `<answer>…</answer>`), `boxed` (the last
    `\boxed{…}`) or `last_line`.
    """
    _check_exact(extract=extract)
    pairs = zip(answers_of(completions, prefills), golds(column, columns), strict=True)
    return [
        None if gold is None else float(_is_exact(_part(text, extract), gold, ignore_case))
        for text, gold in pairs
    ]


def _is_exact(given: str | None, gold: str, ignore_case: bool) -> bool:
    if given is not None and ignore_case:
        given, gold = given.casefold(), gold.casefold()
    return given is not None and given.strip() == gold.strip()


def numeric(
    completions: Sequence[Any],
    column: str | None = None,
    tolerance: float = 0.0,
    relative_tolerance: float = 0.0,
    prefills: Sequence[str] | None = None,
    **columns: Any,
) -> list[float | None]:
    """1 if the last number of the completion equals the gold number, else 0. None if the gold has none.

    The allowed difference is the larger of tolerance and relative_tolerance x |gold|.
    """
    _check_numeric(tolerance=tolerance, relative_tolerance=relative_tolerance)
    rewards: list[float | None] = []
    for text, gold in zip(answers_of(completions, prefills), golds(column, columns), strict=True):
        given, wanted = last_number(text), None if gold is None else as_number(gold)
        if wanted is None and gold is not None:
            wanted = last_number(gold)
        if wanted is None or given is None:
            rewards.append(None if wanted is None else 0.0)
        else:
            allowed = max(Fraction(tolerance), Fraction(relative_tolerance) * abs(wanted))
            rewards.append(float(abs(given - wanted) <= allowed))
    return rewards


def math(
    completions: Sequence[Any],
    column: str | None = None,
    prefills: Sequence[str] | None = None,
    **columns: Any,
) -> list[float | None]:
    r"""1 if the completion's answer is the gold one as mathematics (numbers, LaTeX, sets, intervals, words, …), else 0.

    The answer is the last `<answer>…</answer>`, else the last `\boxed{…}`, else the text after `####` or "the answer
    is", else the last expression in the text; text before `</think>` is ignored. None for a gold answer that is not
    readable (prose, empty). math-verify's own time limits are off, because they would turn "took too long" into
    "wrong"; the worker's limit makes it a failure. math_equivalence.py defines equality.
    """
    parsed = [None if gold is None else Answer(_inner(gold)) for gold in golds(column, columns)]
    return [
        float(_is_correct(text, gold)) if gold and gold.readable else None
        for text, gold in zip(answers_of(completions, prefills), parsed, strict=True)
    ]


def _is_correct(text: str, gold: Answer) -> bool:
    given = answer_tag(text)
    given = boxed(text) if given is None else given
    if given is not None:
        return 0 < len(given) <= MAX_ANSWER and same(Answer(_inner(given)), gold)
    if has_box(text):  # not closed: the answer was truncated
        return False
    tail = text[-_PLAIN_TAIL:]
    stated = stated_answer(tail) or ""
    plain = _WITH_UNIT.fullmatch(stated) or _SEVERAL.fullmatch(stated)
    answer = Answer(plain[1] if plain else stated)
    as_text = answer.is_statement or (answer.plain and (gold.words is not None or gold.choices))
    if plain or answer.number is not None or as_text:
        return same(answer, gold)
    return same_in_text(tail, gold)


def _inner(text: str) -> str:
    """The answer in a sentence: gold columns and `<answer>` may hold one."""
    inner = boxed(text)
    return (stated_answer(text) if inner is None else inner) or text


def _prepare_math(column: str | None = None) -> None:
    """Import math-verify (half a second) before the first call, whose time limit it would count against."""
    import math_verify  # noqa: F401


def _check_exact(extract: str = "all", **others: Any) -> None:
    if extract not in _EXTRACT:
        raise BadOption(f"extract={extract}: choose one of {', '.join(_EXTRACT)}")


def _check_numeric(tolerance: float = 0.0, relative_tolerance: float = 0.0, **others: Any) -> None:
    for name, value in (("tolerance", tolerance), ("relative_tolerance", relative_tolerance)):
        if not 0 <= value < float("inf"):
            raise BadOption(f"{name}={value} must be a number of at least 0")


def _part(text: str, extract: str) -> str | None:
    if extract == "answer":
        return answer_tag(text)
    if extract == "boxed":
        return boxed(text)
    return text.strip().rpartition("\n")[2] if extract == "last_line" else text


_functions: tuple[Any, ...] = (answer, exact, numeric, math)
for _function in _functions:
    _function.any_of_columns = GOLD_COLUMNS
exact.check = _check_exact  # type: ignore[attr-defined]
numeric.check = _check_numeric  # type: ignore[attr-defined]
math.prepare = _prepare_math  # type: ignore[attr-defined]
