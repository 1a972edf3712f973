"""The word problems: right answers, no problem in two splits, the same rows everywhere."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys

import pytest

from hone import embedded
from hone.embedded import task
from hone.errors import DataError

SPLITS = list(task.SPLIT_ROWS)


def canonical(text: str) -> str:
    """The text without names, pronouns and objects: what is left is the family and its numbers."""
    names = "|".join(name for name, _ in task._PEOPLE)
    text = re.sub(rf"\b({names})\b", "NAME", text)
    text = re.sub(rf"\b({'|'.join(task._THINGS)})\b", "THINGS", text)
    return re.sub(r"\b(He|She)\b", "ONE", text)


def texts(split: str) -> set[str]:
    return {canonical(row["prompt"][0]["content"]) for row in task.rows(split)}


def test_no_problem_is_in_two_splits():
    found = {split: texts(split) for split in SPLITS}
    for one in SPLITS:
        for other in SPLITS:
            assert one == other or not found[one] & found[other]
    # Were it not for the split, they would share problems: each split has every family.
    for split in SPLITS:
        assert len({re.sub(r"\d+", "N", text) for text in found[split]}) == len(task.FAMILIES)


@pytest.mark.parametrize(
    ("text", "steps", "answer"),
    [
        ("add 7 5", "7 + 5 = 12.", "12"),
        ("sub 9 4", "9 - 4 = 5.", "5"),
        ("mul 3 6", "3 * 6 = 18.", "18"),
        ("add_sub 7 5 3", "7 + 5 = 12. 12 - 3 = 9.", "9"),
        ("sub_add 9 4 8", "9 - 4 = 5. 5 + 8 = 13.", "13"),
        ("mul_sub 3 6 4", "3 * 6 = 18. 18 - 4 = 14.", "14"),
        ("more 6 3", "6 + 3 = 9. 9 + 6 = 15.", "15"),
    ],
)
def test_careful_by_hand(text: str, steps: str, answer: str):
    name, *numbers = text.split()
    family = next(family for family in task.FAMILIES if family.name == name)
    problem = task.Problem(family, tuple(map(int, numbers)))
    assert task.careful(problem) == f"<think>{steps}</think><answer>{answer}</answer>"


def test_every_careful_completion_is_right_and_every_hasty_one_of_two_steps_is_wrong():
    for split in SPLITS:
        for family in task.FAMILIES:
            assert task.problems(split)[family.name]
            for problem in task.problems(split)[family.name]:
                gold = str(task.solve(problem)[-1][3])
                assert task.parse_answer(task.careful(problem)) == gold
                right = task.parse_answer(task.hasty(problem)) == gold
                assert right == (len(family.steps) == 1)


def test_the_written_arithmetic_of_the_demonstrations_is_true():
    for row in task.rows("sft", 2000):
        for left, operator, right, result in re.findall(
            r"(\d+) ([-+*]) (\d+) = (\d+)", row["completion"][0]["content"]
        ):
            assert eval(f"{left}{operator}{right}") == int(result)


def test_shares_of_the_styles_and_columns():
    rows = task.rows("sft")
    assert len(rows) == task.SPLIT_ROWS["sft"]
    careful = [row for row in rows if "guess" not in row["completion"][0]["content"]]
    assert len(careful) / len(rows) == pytest.approx(task.CAREFUL_SHARE, abs=0.02)
    right = [row for row in rows if task.parse_answer(row["completion"][0]["content"]) == row["answer"]]
    expected = task.CAREFUL_SHARE + (1 - task.CAREFUL_SHARE) * task.ONE_STEP_SHARE
    assert len(right) / len(rows) == pytest.approx(expected, abs=0.02)
    assert set(rows[0]) == set(task.rows("validation", 1)[0]) == {"prompt", "completion", "answer"}
    assert set(task.rows("train", 1)[0]) == set(task.rows("test", 1)[0]) == {"prompt", "answer"}


def test_no_test_problem_comes_twice_and_a_limit_is_a_prefix():
    for split in ("validation", "test"):
        rows = task.rows(split)
        assert len({row["prompt"][0]["content"] for row in rows}) == len(rows) == task.SPLIT_ROWS[split]
        assert task.rows(split, 10) == rows[:10]
    assert task.rows("test", 10**9) == task.rows("test")
    assert task.rows("test", 0) == []


HASHES = {
    "sft": "87947001aa8c435c",
    "train": "3e89834cffa03dcf",
    "validation": "115aeb84a2677a51",
    "test": "7145a32c1f717718",
}


@pytest.mark.parametrize("split", SPLITS)
def test_rows_are_these_and_no_others(split: str):
    """A changed row invalidates the shipped weights and every number published about them."""
    text = json.dumps(task.rows(split), sort_keys=True, ensure_ascii=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == HASHES[split]


def test_rows_do_not_depend_on_the_hash_seed_of_python():
    code = "from hone.embedded import task; print(task.rows('test', 50))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {f"{task.rows('test', 50)}\n"}


def test_embedded_imports_no_torch():
    code = (
        "import sys, hone.embedded as e; e.dataset_rows('hone/word-problems', 'sft', 1); "
        "print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "False\n"


def test_unknown_names_are_said():
    with pytest.raises(DataError, match=r"no split 'dev'.*sft, train, validation, test"):
        embedded.dataset_rows("hone/word-problems", "dev")
    with pytest.raises(DataError, match="no embedded dataset 'hone/words'"):
        embedded.dataset_rows("hone/words", "train")
