"""The embedded comparisons: the better answer is right, the worse one is wrong or says less, and no problem leaks."""

from __future__ import annotations

import hashlib
import json

import pytest

from hone.embedded import dataset_rows, preference_pairs, task
from hone.errors import DataError


@pytest.mark.parametrize("split", preference_pairs.SPLIT_ROWS)
def test_the_chosen_answer_is_right_and_the_rejected_one_is_not_or_guesses(split: str) -> None:
    rows = dataset_rows(preference_pairs.NAME, split)
    assert len(rows) == preference_pairs.SPLIT_ROWS[split]
    wrong = 0
    for row in rows:
        (chosen,), (rejected,) = row["chosen"], row["rejected"]
        assert chosen["role"] == rejected["role"] == "assistant"
        assert task.parse_answer(chosen["content"]) == row["answer"]
        assert chosen["content"] != rejected["content"]
        is_wrong = task.parse_answer(rejected["content"]) != row["answer"]
        assert is_wrong or "I guess" in rejected["content"]
        wrong += is_wrong
    assert wrong / len(rows) > 0.7


def test_the_problems_are_those_of_the_same_split() -> None:
    def problems(rows: list[dict[str, object]]) -> set[str]:
        return {row["chosen"][0]["content"] for row in rows}  # type: ignore[index]

    demonstrated = {
        row["completion"][0]["content"]
        for row in task.rows("sft")
        if "guess" not in row["completion"][0]["content"]
    }
    train, test = (problems(preference_pairs.rows(split)) for split in ("train", "test"))
    assert not demonstrated & train & test  # a step text belongs to a problem, and a problem to one split
    with pytest.raises(DataError, match="no split 'other'"):
        preference_pairs.rows("other")


def test_rows_are_the_same_everywhere() -> None:
    text = json.dumps(preference_pairs.rows("test", 50))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "cfb3848790b796cc"


def test_a_slip_carries_on() -> None:
    problem = task.Problem(next(f for f in task.FAMILIES if f.name == "add_sub"), (7, 5, 3))
    assert (
        preference_pairs.slip(problem, 0, 1) == "<think>7 + 5 = 13. 13 - 3 = 10.</think><answer>10</answer>"
    )
    assert preference_pairs.slip(problem, 1, -2) == "<think>7 + 5 = 12. 12 - 3 = 7.</think><answer>7</answer>"
