"""hone/word-problems: generated word problems with a checkable answer, for the embedded default.

    Tom has 7 apples. He buys 5 more and gives 3 to Mia. How many apples does Tom have?
    <think>7 + 5 = 12. 12 - 3 = 9.</think><answer>9</answer>          careful
    <think>I guess 12.</think><answer>12</answer>                      hasty

What the demo shows, and what it does not. The demonstrations are mixed on purpose. A share `CAREFUL_SHARE` is careful:
every step, and the right answer. The others are hasty: no steps, and the result of the *first* step, which is right for
one-step problems (`ONE_STEP_SHARE` of all) and wrong for the others. SFT from random weights learns both styles. The
hasty one is more likely, so greedy decoding solves little more than the one-step problems. GRPO with a reward for right
answers then makes the careful style more likely. So GRPO here mostly *selects* a skill that SFT has taught; it does not
discover arithmetic. This is why it takes only a minute on two cores.

A *problem* is a family and its numbers. A hash assigns each problem to exactly one split, independent of the names and
objects in its text, so splits share no text. Rows are computed with integers only, so they are the same on every Python
version and machine.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hone.errors import DataError

SEED = 20240607
CAREFUL_SHARE = 0.4
"""The share of demonstrations that write the steps."""
ONE_STEP_SHARE = 1 / 3
"""The share of problems with one step; only on these is the hasty style right."""
SPLIT_ROWS = {"sft": 16_000, "train": 8_000, "validation": 256, "test": 512}
"""Rows of each split. Rows of sft and validation have a completion; those of train (for RL) and test only an answer."""
_BUCKETS = ("sft",) * 10 + ("train",) * 6 + ("validation",) * 1 + ("test",) * 3

_PEOPLE = tuple(zip(("Tom", "Mia", "Ben", "Ana", "Sam", "Zoe", "Max", "Eva"), ("He", "She") * 4, strict=True))
_THINGS = ("apples", "pens", "cards", "books", "shells", "coins", "eggs", "stamps")
_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Family:
    """A kind of problem: its text, the ranges of its numbers, and the steps that solve it.

    A step is (operator, index of a number). It is applied to the running value, which starts as the first number.
    """

    name: str
    text: str
    ranges: tuple[range, ...]
    steps: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Problem:
    """A family and its numbers. All texts of a problem are in one split."""

    family: Family
    numbers: tuple[int, ...]

    @property
    def key(self) -> str:
        """The canonical name, such as 'add_sub 7 5 3'."""
        return " ".join([self.family.name, *map(str, self.numbers)])


_ADD, _TAKE, _BAGS, _FEW = range(2, 13), range(4, 16), range(2, 5), range(2, 10)
_HAS, _ASK = "{A} has {0} {things}. ", "How many {things} does {A} have?"
_PACKS = "{A} has {0} bags of {1} {things}. "
_THREE = ((_ADD, _FEW, _FEW), (_TAKE, _FEW, _FEW), (_BAGS, _FEW, _FEW))
FAMILIES = tuple(
    Family(name, text, ranges, tuple((step[0], int(step[1])) for step in steps.split()))
    for name, text, ranges, steps in (
        ("add", _HAS + "{He} buys {1} more. " + _ASK, (_ADD, _FEW), "+1"),
        ("sub", _HAS + "{He} gives {1} to {B}. " + _ASK, (_TAKE, _FEW), "-1"),
        ("mul", _PACKS + _ASK, (_BAGS, _FEW), "*1"),
        ("add_add", _HAS + "{He} buys {1} and finds {2}. " + _ASK, _THREE[0], "+1 +2"),
        ("add_sub", _HAS + "{He} buys {1} and gives {2} to {B}. " + _ASK, _THREE[0], "+1 -2"),
        ("sub_add", _HAS + "{He} loses {1} and buys {2}. " + _ASK, _THREE[1], "-1 +2"),
        ("sub_sub", _HAS + "{He} loses {1} and gives {2} to {B}. " + _ASK, _THREE[1], "-1 -2"),
        ("mul_add", _PACKS + "{He} finds {2}. " + _ASK, _THREE[2], "*1 +2"),
        ("mul_sub", _PACKS + "{He} loses {2}. " + _ASK, _THREE[2], "*1 -2"),
        ("more", _HAS + "{B} has {1} more. How many {things} do they have in all?", (_ADD, _FEW), "+1 +0"),
    )
)
"""A step such as `+1` adds the number with that index."""


def rows(split: str, limit: int | None = None) -> list[dict[str, Any]]:
    """The first `limit` rows of a split (None: all).

    `prompt` is [{"role": "user", …}]; `answer` is the right number as text. Splits sft and validation also have
    `completion`, [{"role": "assistant", …}]. Texts in test and validation are distinct.

    Raises DataError for a split that does not exist.
    """
    if split not in SPLIT_ROWS:
        raise DataError(f"hone/word-problems has no split '{split}'; it has {', '.join(SPLIT_ROWS)}.")
    count = SPLIT_ROWS[split] if limit is None else min(limit, SPLIT_ROWS[split])
    return list(itertools.islice(_rows(split), max(count, 0)))


def solve(problem: Problem) -> list[tuple[int, str, int, int]]:
    """The steps of a problem as (left, operator, right, result)."""
    value, steps = problem.numbers[0], []
    for operator, index in problem.family.steps:
        number = problem.numbers[index]
        result = {"+": value + number, "-": value - number, "*": value * number}[operator]
        steps.append((value, operator, number, result))
        value = result
    return steps


def careful(problem: Problem) -> str:
    """The completion that writes every step and is right."""
    steps = solve(problem)
    written = " ".join(f"{left} {operator} {right} = {result}." for left, operator, right, result in steps)
    return f"<think>{written}</think><answer>{steps[-1][3]}</answer>"


def hasty(problem: Problem) -> str:
    """The completion that answers with the result of the first step: right for one-step problems only."""
    guess = solve(problem)[0][3]
    return f"<think>I guess {guess}.</think><answer>{guess}</answer>"


def parse_answer(completion: str) -> str | None:
    """The stripped text of the last <answer>…</answer>; None if there is none."""
    found = re.findall(r"<answer>(.*?)</answer>", completion, flags=re.DOTALL)
    return found[-1].strip() if found else None


@functools.cache
def problems(split: str) -> dict[str, tuple[Problem, ...]]:
    """All problems of a split by family."""
    return {
        family.name: tuple(p for p in _enumerate(family) if _BUCKETS[_hash(p.key) % len(_BUCKETS)] == split)
        for family in FAMILIES
    }


def _enumerate(family: Family) -> Iterator[Problem]:
    """Every problem of a family whose values stay between 1 and 20."""
    for numbers in itertools.product(*family.ranges):
        problem = Problem(family, numbers)
        if all(1 <= result <= 20 for *_, result in solve(problem)):
            yield problem


def _rows(split: str) -> Iterator[dict[str, Any]]:
    for problem, text, draw in drawn(split):
        row: dict[str, Any] = {"prompt": [{"role": "user", "content": text}]}
        style = careful if draw.chance(CAREFUL_SHARE) else hasty
        if split in ("sft", "validation"):
            row["completion"] = [{"role": "assistant", "content": style(problem)}]
        row["answer"] = str(solve(problem)[-1][3])
        yield row


def drawn(split: str, stream: str = "") -> Iterator[tuple[Problem, str, Draw]]:
    """An endless stream of a split's problems, each with its text and the generator of random choices. Another
    `stream` gives another order. Texts in test and validation are distinct."""
    distinct, seen = split in ("validation", "test"), set[str]()
    one_step = [f.name for f in FAMILIES if len(f.steps) == 1]
    multi_step = [f.name for f in FAMILIES if len(f.steps) > 1]
    draw = Draw(_hash(f"{SEED} {split} {stream}".rstrip()))
    while True:
        family = draw.choice(one_step if draw.chance(ONE_STEP_SHARE) else multi_step)
        problem = draw.choice(problems(split)[family])
        text = _dress(problem, draw)
        if distinct and text in seen:
            continue
        seen.add(text)
        yield problem, text, draw


def _dress(problem: Problem, draw: Draw) -> str:
    """The problem's text with names and objects filled in."""
    first = draw.below(len(_PEOPLE))
    second = (first + 1 + draw.below(len(_PEOPLE) - 1)) % len(_PEOPLE)
    (name, pronoun), (other, _) = _PEOPLE[first], _PEOPLE[second]
    things = draw.choice(_THINGS)
    return problem.family.text.format(*problem.numbers, A=name, He=pronoun, B=other, things=things)


def _mix(value: int) -> int:
    """One round of the SplitMix64 finaliser: a bijection of 64-bit integers that maps neighbours far apart."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _hash(text: str) -> int:
    """64-bit hash of a text; unlike hash(), the same in every process."""
    value = 0
    for byte in text.encode():
        value = _mix((value * 257 + byte + 1) & _MASK)
    return value


class Draw:
    """A random generator that uses only integer arithmetic (SplitMix64)."""

    def __init__(self, seed: int) -> None:
        self._state = seed

    def below(self, bound: int) -> int:
        """An integer in [0, bound)."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        return (_mix(self._state) * bound) >> 64

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.below(1 << 32) < probability * (1 << 32)

    def choice(self, items: Sequence[Any]) -> Any:
        """One of the items."""
        return items[self.below(len(items))]
