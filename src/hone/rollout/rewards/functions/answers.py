"""Is the answer right? By text, by number, or as mathematics. A row without a readable gold answer gets None."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from hone.rollout.rewards.functions.common import GOLD_COLUMNS, BadOption, golds
from hone.rollout.rewards.text import answer_tag, as_number, boxed, last_number, same_answer, text_of

_PLAIN_TAIL = 1000  # characters of an untagged completion in which `math` looks for the answer
_MAX_ANSWER = 2000  # characters of an answer that `math` reads: no gold answer is as long
_EXTRACT = ("all", "answer", "boxed", "last_line")


def answer(completions: Sequence[Any], column: str | None = None, **columns: Any) -> list[float | None]:
    """1 if the last `<answer>…</answer>` equals the gold answer (as a number, or as text), else 0."""
    return [
        None
        if gold is None
        else float((given := answer_tag(text_of(c))) is not None and same_answer(given, gold))
        for c, gold in zip(completions, golds(column, columns), strict=True)
    ]


def exact(
    completions: Sequence[Any],
    column: str | None = None,
    extract: str = "all",
    ignore_case: bool = False,
    **columns: Any,
) -> list[float | None]:
    r"""1 if the completion is the gold answer, character by character but for white space around it, else 0.

    extract: which part of the completion: `all`, `answer` (the last `<answer>…</answer>`), `boxed` (the last
    `\boxed{…}`) or `last_line`.
    """
    _check_exact(extract=extract)
    rewards: list[float | None] = []
    for completion, gold in zip(completions, golds(column, columns), strict=True):
        given = _part(text_of(completion), extract)
        if ignore_case:
            given, gold = given and given.casefold(), gold and gold.casefold()
        rewards.append(None if gold is None else float(given is not None and given.strip() == gold.strip()))
    return rewards


def numeric(
    completions: Sequence[Any],
    column: str | None = None,
    tolerance: float = 0.0,
    relative_tolerance: float = 0.0,
    **columns: Any,
) -> list[float | None]:
    """1 if the last number of the completion equals the gold number, else 0. None if the gold has none.

    tolerance, relative_tolerance: the larger of the two, the latter times the gold number, is how far it may be off.
    """
    rewards: list[float | None] = []
    for completion, gold in zip(completions, golds(column, columns), strict=True):
        wanted = None if gold is None else as_number(gold)
        if wanted is None and gold is not None:
            wanted = last_number(gold)
        given = last_number(text_of(completion))
        if wanted is None or given is None:
            rewards.append(None if wanted is None else 0.0)
            continue
        allowed = max(Fraction(tolerance), Fraction(relative_tolerance) * abs(wanted))
        rewards.append(float(abs(given - wanted) <= allowed))
    return rewards


def math(completions: Sequence[Any], column: str | None = None, **columns: Any) -> list[float | None]:
    r"""1 if math-verify finds the completion's answer equal to the gold one (LaTeX, sets, intervals, …),
    else 0.

    The answer is the last `<answer>…</answer>`, else the last `\boxed{…}`, else the last expression in the
    text. None where math-verify cannot read the gold. math-verify's own time limits are off, because they
    would turn "took too long" into "wrong"; the worker's limit reports it as a failure.
    """
    from math_verify import parse, verify

    rewards: list[float | None] = []
    for completion, gold in zip(completions, golds(column, columns), strict=True):
        gold_parsed = parse(_as_latex(gold), parsing_timeout=None) if gold else []
        if not gold_parsed:
            rewards.append(None)
            continue
        text = text_of(completion)
        given = answer_tag(text)
        given = boxed(text) if given is None else given
        if given is not None and len(given) > _MAX_ANSWER:
            rewards.append(0.0)
            continue
        target = text[-_PLAIN_TAIL:] if given is None else _as_latex(given)
        rewards.append(float(verify(gold_parsed, parse(target, parsing_timeout=None), timeout_seconds=None)))
    return rewards


def _prepare_math(column: str | None = None) -> None:
    """Half a second, which no completion is to pay for with its time limit."""
    import math_verify  # noqa: F401


def _check_exact(extract: str = "all", **others: Any) -> None:
    if extract not in _EXTRACT:
        raise BadOption(f"extract={extract}: choose one of {', '.join(_EXTRACT)}")


def _part(text: str, extract: str) -> str | None:
    if extract == "answer":
        return answer_tag(text)
    if extract == "boxed":
        return boxed(text)
    return text.strip().rpartition("\n")[2] if extract == "last_line" else text


def _as_latex(text: str) -> str:
    r"""math-verify reads LaTeX only inside an environment: give bare LaTeX one."""
    return (
        text if "$" in text or r"\boxed" in text or r"\(" in text or r"\[" in text else rf"\boxed{{{text}}}"
    )


_functions: tuple[Any, ...] = (answer, exact, numeric, math)
for _function in _functions:
    _function.any_of_columns = GOLD_COLUMNS  # checked before any completion is scored
exact.check = _check_exact  # type: ignore[attr-defined]
math.prepare = _prepare_math  # type: ignore[attr-defined]
