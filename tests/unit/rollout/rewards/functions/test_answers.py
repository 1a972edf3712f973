"""The built-in reward functions by hand, and on the gold answers of GSM8K."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from hone.rollout.rewards.functions.builtin import BUILTIN, answer, format, length, math, numeric
from hone.rollout.rewards.numerals import as_number, last_number
from hone.rollout.rewards.text import answer_tag, boxed, gold_answer, text_of

GSM8K = Path(__file__).parents[6] / "shared" / "data" / "gsm8k"


def test_gold_answers_are_found_in_each_convention() -> None:
    assert gold_answer("48/2 = <<48/2=24>>24 clips.\n#### 72") == "72"
    assert gold_answer("#### 1,234\n") == "1,234"
    assert gold_answer("so it is \\boxed{\\frac{1}{2}}.") == "\\frac{1}{2}"
    assert gold_answer("<answer> 5 </answer>") == "5"
    assert gold_answer(" Paris ") == "Paris"
    assert gold_answer(72) == "72"
    assert gold_answer(0) == "0"
    assert gold_answer(1e22) == "1e+22"
    assert gold_answer(np.int64(7)) == "7"
    assert gold_answer(Decimal("7.5")) == "7.5"
    assert gold_answer(r"$\boxed{3}$ and $\boxed{4}$") == "3, 4"
    for missing in ("", "  ", None, "####", [1], True, np.True_, float("nan"), np.float32("inf")):
        assert gold_answer(missing) is None


def test_answer_tag_takes_the_last_closed_one() -> None:
    assert answer_tag("<answer>1</answer> no, <answer> 2 </answer>") == "2"
    assert answer_tag("<answer>1</answer> <answer>2") == "1"
    assert answer_tag("</answer><answer>") is None
    assert answer_tag("1") is None
    assert answer_tag("<answer></answer>") == ""


def test_boxed_balances_braces() -> None:
    assert boxed("\\boxed{1} then \\boxed{\\frac{1}{2}} end}") == "\\frac{1}{2}"
    assert boxed("\\boxed{1") is None
    assert boxed("nothing") is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("72", 72),
        ("-1,234.50", Fraction(-12345, 10)),
        ("$72.", 72),
        ("\\$5", 5),
        ("50%", 50),
        ("3/4", Fraction(3, 4)),
        (".5", Fraction(1, 2)),
        ("0.1", Fraction(1, 10)),
        ("72 apples", None),
        ("1/0", None),
        ("", None),
        (".", None),
        ("1e5", 100_000),
        ("2.5E-1", Fraction(1, 4)),
        ("1e999999999", None),
        ("\u22125", -5),
        ("-$5", -5),
        ("1{,}234", 1234),
        ("1 1/2", Fraction(3, 2)),
        ("9" * 5000, None),
    ],
)
def test_numbers_are_parsed_exactly(text: str, value: Fraction | None) -> None:
    assert as_number(text) == value


def test_the_text_of_a_completion_is_what_the_model_said_last() -> None:
    said, told = {"role": "assistant", "content": "4"}, {"role": "user", "content": "<answer>5</answer>"}
    assert text_of([said, told]) == "4"
    assert text_of([said, {"role": "assistant", "content": None}]) == ""
    parts = [{"type": "text", "text": "4"}, {"type": "image", "text": None}, {"type": "text", "text": "2"}]
    assert text_of([{"role": "assistant", "content": parts}]) == "42"
    assert text_of([told]) == "<answer>5</answer>"
    assert (text_of([]), text_of("x")) == ("", "x")
    assert answer([[said, told]], answer=["5"]) == [0.0]


def test_the_last_number_of_a_text_is_found() -> None:
    assert last_number("from 3 to 1,234.5, that is all.") == Fraction(12345, 10)
    assert last_number("10-5") == 5
    assert last_number("it is -5.") == -5
    assert last_number("x2") is None


def test_answer_compares_the_tag_with_the_gold_answer() -> None:
    completions = [
        "<answer>72</answer>",
        "<answer> $72.00 </answer>",
        "72",
        "<answer>71</answer>",
        "<answer></answer>",
    ]
    assert answer(completions, answer=["a\n#### 72"] * 5) == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert answer(["<answer>PARIS </answer>"] * 2, answer=["Paris", None]) == [1.0, None]
    assert answer(["<answer>1</answer>"], gold=["1"], answer=["2"], column="gold") == [1.0]
    message = [{"role": "assistant", "content": "<answer>72</answer>"}]
    assert answer([message, []], ground_truth=[72, 72]) == [1.0, 0.0]


def test_rows_of_several_datasets_take_the_gold_column_that_they_have() -> None:
    assert answer(["<answer>1</answer>"] * 2, answer=["1", None], ground_truth=[None, "2"]) == [1.0, 0.0]


def test_numeric_compares_the_last_number() -> None:
    assert numeric(["I think 3, no: 72.", "72 or 71", "none"], answer=["#### 72"] * 3) == [1.0, 0.0, 0.0]
    assert numeric(["72"], answer=["seventy-two"]) == [None]


@pytest.mark.parametrize(
    ("completion", "gold", "reward"),
    [
        ("\\boxed{\\frac{1}{2}}", "0.5", 1.0),
        ("<think>\\boxed{3}</think><answer>\\frac{2}{4}</answer>", "\\frac12", 1.0),
        ("so x is $x^2 + 2x + 1$", "(x+1)^2", 1.0),
        ("\\boxed{(1, 2)}", "(2, 1)", 0.0),
        ("\\boxed{\\{1, 2\\}}", "\\{2, 1\\}", 1.0),
        ("the answer is 72", "a\n#### 72", 1.0),
        ("the answer is 7", "a\n#### 72", 0.0),
        ("<answer></answer>", "72", 0.0),
        ("", "72", 0.0),
        ("\\boxed{72}", "", None),
        ("\\boxed{72}", None, None),
    ],
)
def test_math_counts_equivalent_answers(completion: str, gold: str | None, reward: float | None) -> None:
    assert math([completion], solution=[gold]) == [reward]


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("<think>a</think><answer>b</answer>", 1.0),
        ("<think>a\nb</think>\n <answer>c</answer>\n", 1.0),
        ("<think></think><answer></answer>", 1.0),
        ("x<think>a</think><answer>b</answer>", 0.0),
        ("<think>a</think>x<answer>b</answer>", 0.0),
        ("<think>a</think><answer>b</answer>x", 0.0),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 0.0),
        ("<think>a<answer>b</answer></think>", 0.0),
        ("<answer>b</answer><think>a</think>", 0.0),
        ("<think>a</think><answer>b", 0.0),
        ("", 0.0),
    ],
)
def test_format_wants_each_tag_once(completion: str, reward: float) -> None:
    assert format([completion]) == [reward]


def test_length_penalizes_the_distance_to_the_target() -> None:
    ids = [[0] * n for n in (10, 5, 15, 0, 40)]
    assert length([""] * 5, completion_ids=ids, target=10) == [0.0, -0.5, -0.5, -1.0, -1.0]


@pytest.mark.parametrize("name", ["answer", "numeric", "format", "exact", "json_schema"])
@pytest.mark.parametrize(
    "hostile",
    ["<think>", "</think>", "<answer>", "</answer> ", "9", "\\boxed{", "-", "1,", "[", "```\n", "1e9"],
)
def test_hostile_text_takes_linear_time(name: str, hostile: str) -> None:
    start = time.monotonic()
    more = {"schema": {"type": "object"}} if name == "json_schema" else {}
    BUILTIN[name]([hostile * 100_000], answer=["72"], **more)
    assert time.monotonic() - start < 1.0


def gsm8k(rows: int | None) -> list[str]:
    if not GSM8K.is_dir():
        pytest.skip("GSM8K is not here")
    lines = [
        line for split in ("test", "train") for line in (GSM8K / f"{split}.jsonl").open(encoding="utf-8")
    ]
    return [json.loads(line)["answer"] for line in lines[:rows]]


def check_gsm8k(golds: list[str]) -> None:
    """Right answers score 1 in every dress, answers off by one score 0."""
    finals = [gold.rpartition("#### ")[2] for gold in golds]
    wrong = [str(int(final.replace(",", "")) + 1) for final in finals]
    ones, zeros = [1.0] * len(golds), [0.0] * len(golds)
    for function, dress in [
        (answer, "<answer>{}</answer>"),
        (math, "<answer>{}</answer>"),
        (math, "\\boxed{{{}}}"),
    ]:
        assert function([dress.format(final) for final in finals], answer=golds) == ones
        assert function([dress.format(final) for final in wrong], answer=golds) == zeros
    assert numeric([f"That makes {final}." for final in finals], answer=golds) == ones
    assert numeric([f"That makes {final}." for final in wrong], answer=golds) == zeros


def test_gold_answers_of_gsm8k_are_read() -> None:
    check_gsm8k(gsm8k(200))


@pytest.mark.slow
def test_gsm8k_gold_of_every_row() -> None:
    golds = gsm8k(None)
    assert len(golds) > 8000
    check_gsm8k(golds)
