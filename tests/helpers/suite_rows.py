"""Rows of the shape of each suite's data set, in our own words, and files of them. Not a test itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hone.evaluation.suite import load_suite

Rows = list[dict[str, Any]]


def _arc(question: str, options: list[str], right: str) -> dict[str, Any]:
    labels = list("ABCD")[: len(options)]
    return {"question": question, "choices": {"text": options, "label": labels}, "answerKey": right}


def _mmlu(subject: str, question: str, choices: list[str], answer: int) -> dict[str, Any]:
    return {"question": question, "subject": subject, "choices": choices, "answer": answer}


TEST: dict[str, Rows] = {
    "gsm8k": [
        {
            "question": "A hen lays 2 eggs a day. How many in 6 days?",
            "answer": "2 x 6 = <<2*6=12>>12 eggs.\n#### 12",
        },
        {
            "question": "Ida has 1,500 glass beads and sells half of them at a market. How many are left?",
            "answer": "Half of 1500 is 750.\n#### 750",
        },
    ],
    "math500": [
        {
            "problem": "What is $\\frac{3}{6}$ in lowest terms?",
            "solution": "Divide by 3.",
            "answer": "\\frac{1}{2}",
        },
        {"problem": "Solve $x^2 = 49$ for $x > 0$.", "solution": "7", "answer": "7"},
    ],
    "cmath": [
        {
            "question": "小明有3个苹果，又买了4个，一共有几个？",
            "golden": "7",
            "grade": 1,
            "reasoning_step": 1,
            "num_digits": 1,
        },
        {
            "question": "一本书12元，3本书多少元？",
            "golden": ["36"],
            "grade": 3,
            "reasoning_step": 1,
            "num_digits": 2,
        },
    ],
    "humaneval": [
        {
            "task_id": "Own/0",
            "prompt": 'def double(x: int) -> int:\n    """Return twice x."""\n',
            "entry_point": "double",
            "canonical_solution": "    return 2 * x\n",
            "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n",
        },
        {
            "task_id": "Own/1",
            "prompt": (
                "from typing import List\n\n\ndef head(items: List[int]) -> int:\n    return items[0]\n\n\n"
                'def last(items: List[int]) -> int:\n    """Return the last item."""\n'
            ),
            "entry_point": "last",
            "canonical_solution": "    return items[-1]\n",
            "test": "def check(candidate):\n    assert candidate([1, 5]) == 5\n",
        },
    ],
    "mbpp": [
        {
            "task_id": 1,
            "text": "Write a function that adds two numbers.",
            "code": "def add(a, b):\n    return a + b",
            "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0", "assert add(-1, 1) == 0"],
            "test_setup_code": "",
        }
    ],
    "mmlu": [
        _mmlu(
            "high_school_geography",
            "Which is the largest ocean? ",
            ["Arctic", "Indian", "Pacific", "Atlantic"],
            2,
        ),
        _mmlu("anatomy", "How many kidneys does a person usually have?", ["One", "Two", "Three", "Four"], 1),
    ],
    "hellaswag": [
        {
            "activity_label": "Baking bread",
            "ctx_a": "A baker [step] kneads the dough.",
            "ctx_b": "then the baker",
            "ctx": "A baker kneads the dough. Then the baker",
            "endings": [
                "lets it rest.",
                "swims across a lake.",
                "paints the dough blue.",
                "reads a map [substeps] aloud.",
            ],
            "label": "0",
        }
    ],
    "arc_easy": [_arc("What do bees make?", ["honey", "steel", "glass", "salt"], "A")],
    "arc_challenge": [_arc("Which is a liquid at room temperature?", ["iron", "mercury", "gold"], "B")],
    "winogrande": [
        {
            "sentence": "The trophy did not fit in the case because the _ was too large.",
            "option1": "trophy",
            "option2": "case",
            "answer": "1",
        }
    ],
    "truthfulqa_mc1": [
        {
            "question": "Do goldfish remember?",
            "mc1_targets": {"choices": ["For months", "For 3 s"], "labels": [1, 0]},
        }
    ],
    "truthfulqa_mc2": [
        {
            "question": "Do goldfish remember?",
            "mc2_targets": {"choices": ["For months", "They do", "For 3 seconds"], "labels": [1, 1, 0]},
        }
    ],
    "ifeval": [
        {
            "key": 1,
            "prompt": "Describe a river in capital-free text without commas.",
            "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
            "kwargs": [{"num_words": None}, {"num_words": 4, "relation": "at least", "language": None}],
        }
    ],
}
"""Problems of each suite."""

EXAMPLES: dict[str, Rows] = {
    "gsm8k": [
        {"question": f"What is {n} + 1?", "answer": f"{n} + 1 = {n + 1}\n#### {n + 1}"} for n in range(8)
    ],
    "mmlu": [
        _mmlu(subject, f"Example {n} of {subject}?", ["a", "b", "c", "d"], n % 4)
        for n in range(5)
        for subject in ("anatomy", "high_school_geography")
    ],
    "mbpp": TEST["mbpp"] * 3,
    "arc_easy": TEST["arc_easy"] * 2,
    "arc_challenge": TEST["arc_challenge"],
}
"""Rows of the split of the few-shot examples."""


def write_suite(folder: Path, name: str) -> Path:
    """A folder with a file for each split of a suite."""
    suite = load_suite(name)
    path = folder / name
    path.mkdir(parents=True)
    splits = {suite.data.split: TEST[name]}
    if suite.fewshot is not None:
        splits[suite.fewshot.split] = EXAMPLES[name]
    for split, rows in splits.items():
        (path / f"{split}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )
    return path
