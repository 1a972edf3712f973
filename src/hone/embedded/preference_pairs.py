"""hone/word-problem-preferences: two answers to each of the word problems, one better than the other.

    Tom has 7 apples. He buys 5 more and gives 3 to Mia. How many apples does Tom have?
    chosen    <think>7 + 5 = 12. 12 - 3 = 9.</think><answer>9</answer>
    rejected  <think>I guess 12.</think><answer>12</answer>

The chosen answer writes every step and is right. A share `GUESS_SHARE` of the rejected answers guess; in a problem of
one step the guess is also right, and only the style is worse. The other rejected answers write the steps with an error
in one of them, and are wrong. A model that knows both styles learns from DPO to prefer the careful one, and to
calculate. The problems are those of the splits train, validation and test of hone/word-problems, none of which SFT has
seen. The split `sft` has the problems that SFT has seen, mostly with an error as the rejected answer: a reward model
needs more problems than `train` has to tell a wrong result from a right one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from hone.embedded import task
from hone.errors import DataError

NAME = "hone/word-problem-preferences"
GUESS_SHARE = 0.6
SFT_GUESS_SHARE = 0.1
"""`GUESS_SHARE` of the split `sft`."""
SPLIT_ROWS = {"train": 4_000, "sft": 12_000, "validation": 256, "test": 512}


def rows(split: str, limit: int | None = None) -> list[dict[str, Any]]:
    """The first `limit` rows of a split (None: all): prompt, chosen and rejected as messages, and the right answer.

    Raises DataError for a split that does not exist.
    """
    if split not in SPLIT_ROWS:
        raise DataError(f"{NAME} has no split '{split}'; it has {', '.join(SPLIT_ROWS)}.")
    count = SPLIT_ROWS[split] if limit is None else min(limit, SPLIT_ROWS[split])
    return list(itertools.islice(_rows(split), max(count, 0)))


def slip(problem: task.Problem, at: int, by: int) -> str:
    """The completion that writes every step, with a result in step `at` that is wrong by `by`; later steps use it."""
    value, written = problem.numbers[0], []
    for number, (operator, index) in enumerate(problem.family.steps):
        right = problem.numbers[index]
        result = {"+": value + right, "-": value - right, "*": value * right}[operator]
        result = max(0, result + (by if number == at else 0))
        written.append(f"{value} {operator} {right} = {result}.")
        value = result
    return f"<think>{' '.join(written)}</think><answer>{value}</answer>"


def _rows(split: str) -> Iterator[dict[str, Any]]:
    for problem, text, draw in task.drawn(split, "preferences"):
        chosen = task.careful(problem)
        answer = str(task.solve(problem)[-1][3])
        if draw.chance(SFT_GUESS_SHARE if split == "sft" else GUESS_SHARE):
            rejected = task.hasty(problem)
        else:
            steps = len(problem.family.steps)
            rejected = slip(problem, draw.below(steps), draw.choice((-2, -1, 1, 2)))
            if task.parse_answer(rejected) == answer:  # results are clipped at 0, which may hide the error
                rejected = task.hasty(problem)
        yield {
            "prompt": [{"role": "user", "content": text}],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
            "answer": answer,
        }
