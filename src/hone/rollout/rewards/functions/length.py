"""Rewards for length and repetition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hone.rollout.reward_shaping import overlong_penalty
from hone.rollout.rewards.functions.common import BadOption
from hone.rollout.rewards.text import text_of


def length(
    completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], target: int = 100, **columns: Any
) -> list[float | None]:
    """-|length - target| / target, at least -1: 0 at `target` tokens, falling linearly."""
    return [max(-1.0, -abs(len(ids) - target) / target) for ids in completion_ids]


def overlong(
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    max_length: int | None = None,
    buffer_length: int | None = None,
    penalty: float = 1.0,
    **columns: Any,
) -> list[float | None]:
    """DAPO's soft punishment of long responses (see hone.rollout.reward_shaping.overlong_penalty)."""
    _check_overlong(max_length, buffer_length)
    assert max_length is not None
    assert buffer_length is not None
    return [overlong_penalty(len(ids), max_length, buffer_length, penalty) for ids in completion_ids]


def repetition(
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    ngram_size: int = 3,
    max_penalty: float = -1.0,
    unit: str = "tokens",
    **columns: Any,
) -> list[float | None]:
    """`max_penalty` (at most 0) times the fraction of n-grams that repeat an earlier one; 0 for a completion shorter
    than one n-gram. Appendix C.2 of arXiv 2502.03373.

    unit: n-grams of `tokens`, or of `words` (case is ignored).
    """
    _check_repetition(ngram_size, max_penalty, unit)
    texts = [text_of(c).casefold().split() for c in completions] if unit == "words" else completion_ids
    return [_repeated(text, ngram_size) * max_penalty for text in texts]


def _repeated(items: Sequence[Any], size: int) -> float:
    ngrams = [tuple(items[i : i + size]) for i in range(len(items) - size + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def _check_length(target: int = 100) -> None:
    if target < 1:
        raise BadOption(f"target={target} must be at least 1")


def _check_overlong(max_length: Any = None, buffer_length: Any = None, penalty: float = 1.0) -> None:
    if max_length is None or buffer_length is None:
        raise BadOption("needs kwargs.max_length and kwargs.buffer_length, in tokens")
    if not 0 <= buffer_length <= max_length:
        raise BadOption(f"buffer_length={buffer_length} must lie between 0 and max_length={max_length}")
    if penalty < 0:
        raise BadOption(f"penalty={penalty} would reward length: give the amount to subtract, at least 0")


def _check_repetition(ngram_size: int = 3, max_penalty: float = -1.0, unit: str = "tokens") -> None:
    if ngram_size < 1:
        raise BadOption(f"ngram_size={ngram_size} must be at least 1")
    if max_penalty > 0:
        raise BadOption(f"max_penalty={max_penalty} would reward repetition: it must not be above 0")
    if unit not in ("tokens", "words"):
        raise BadOption(f"unit={unit}: choose tokens or words")


length.check = _check_length  # type: ignore[attr-defined]
length.judges = False  # type: ignore[attr-defined]
overlong.check = _check_overlong  # type: ignore[attr-defined]
overlong.judges = False  # type: ignore[attr-defined]
repetition.check = _check_repetition  # type: ignore[attr-defined]
repetition.judges = False  # type: ignore[attr-defined]
