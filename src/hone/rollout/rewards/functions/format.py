"""Rewards for the format of a completion."""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Sequence
from typing import Any

from hone.rollout.rewards.functions.common import BadOption
from hone.rollout.rewards.text import texts_of

_MODES = ("search", "match", "fullmatch")
_FLAGS = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL, "x": re.VERBOSE, "a": re.ASCII}


def format(
    completions: Sequence[Any],
    pattern: str | None = None,
    prefills: Sequence[str] | None = None,
    **columns: Any,
) -> list[float | None]:
    """1 if the completion is `<think>…</think>` then `<answer>…</answer>`, each tag exactly once, else 0.

    A prefill belongs to the completion: a template may open the thought itself.

    pattern: a regular expression that the whole completion must match instead (`.` matches line ends too).
    """
    if pattern is not None:
        return regex(completions, pattern=pattern, mode="fullmatch", flags="s", prefills=prefills)
    return [float(_well_formed(text.strip())) for text in texts_of(completions, prefills)]


def regex(
    completions: Sequence[Any],
    pattern: str | None = None,
    column: str | None = None,
    mode: str = "search",
    flags: str = "",
    prefills: Sequence[str] | None = None,
    **columns: Any,
) -> list[float | None]:
    """1 if a regular expression matches the completion, else 0.

    pattern: the expression, or `column`: the column that holds one for each row (None: does not apply).
    mode: `search` (anywhere), `match` (from the beginning) or `fullmatch`. flags: of `i`, `m`, `s`, `x`, `a`, as
    in `(?i)`. A search that does not end is stopped by the worker's time limit, which is a failure.
    """
    _check_regex(pattern, column, mode, flags)
    patterns = [pattern] * len(completions) if column is None else columns[column]
    return [
        None if each is None else float(getattr(_compiled(each, flags), mode)(text) is not None)
        for text, each in zip(texts_of(completions, prefills), patterns, strict=True)
    ]


def _check_regex(pattern: Any = None, column: Any = None, mode: str = "search", flags: str = "") -> None:
    if (pattern is None) == (column is None):
        raise BadOption("needs kwargs.pattern (a regular expression) or kwargs.column (the column with one)")
    if mode not in _MODES:
        raise BadOption(f"mode={mode}: choose one of {', '.join(_MODES)}")
    if set(flags) - set(_FLAGS):
        raise BadOption(f"flags={flags}: it may hold {', '.join(_FLAGS)}")
    if pattern is not None:
        _compiled(pattern, flags)


def _check_format(pattern: str | None = None) -> None:
    if pattern is not None:
        _compiled(pattern, "s")


@functools.lru_cache(1024)
def _compiled(pattern: str, flags: str) -> re.Pattern[str]:
    combined = functools.reduce(operator.or_, map(_FLAGS.__getitem__, flags), re.RegexFlag(0))
    try:
        return re.compile(pattern, combined)
    except (re.error, RecursionError, OverflowError) as error:
        raise BadOption(f"pattern {pattern!r:.200} is not a regular expression: {error}") from error


def _well_formed(text: str) -> bool:
    tags = ("<think>", "</think>", "<answer>", "</answer>")
    if any(text.count(tag) != 1 for tag in tags) or not (text.startswith(tags[0]) and text.endswith(tags[3])):
        return False
    return text.partition(tags[1])[2].lstrip().startswith(tags[2])


format.check = _check_format  # type: ignore[attr-defined]
format.judges = False  # type: ignore[attr-defined]
regex.check = _check_regex  # type: ignore[attr-defined]
regex.judges = False  # type: ignore[attr-defined]
regex.any_of_columns = ()  # type: ignore[attr-defined]  # only kwargs.column
