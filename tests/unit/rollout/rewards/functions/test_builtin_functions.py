"""The shipped functions on cases worked by hand, against TRL where it has the same, and with options that cannot be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hone.errors import RewardError
from hone.rollout.rewards.functions.builtin import exact, json_schema, numeric, overlong, regex, repetition
from hone.rollout.rewards.functions.builtin import format as form
from hone.rollout.rewards.resolve import resolve, resolve_all
from hone.rollout.rewards.reward_pool import RewardPool
from hone.rollout.rewards.text import fenced

TICKS = "`" * 3


def test_exact_compares_characters() -> None:
    golds = {"answer": ["Paris", "Paris", "#### 7", None]}
    assert exact([" Paris\n", "paris", "7", "x"], **golds) == [1.0, 0.0, 1.0, None]
    assert exact(["Paris", "paris", "7.0", "x"], ignore_case=True, **golds) == [1.0, 1.0, 0.0, None]
    texts = ["I think\nParis", r"so \boxed{Paris}", "<answer>Paris</answer>."]
    for extract, wanted in (
        ("last_line", [1, 0, 0]),
        ("boxed", [0, 1, 0]),
        ("answer", [0, 0, 1]),
        ("all", [0, 0, 0]),
    ):
        assert exact(texts, extract=extract, answer=["Paris"] * 3) == wanted


def test_numeric_with_a_tolerance() -> None:
    texts, gold = ["about 3.14", "3.2", "3.1416", "pi"], {"answer": ["3.1416"] * 4}
    assert numeric(texts, **gold) == [0.0, 0.0, 1.0, 0.0]
    assert numeric(texts, tolerance=0.01, **gold) == [1.0, 0.0, 1.0, 0.0]
    assert numeric(texts, relative_tolerance=0.02, **gold) == [1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("length", [0, 79, 80, 81, 90, 99, 100, 101, 500])
def test_overlong_is_what_trl_computes(length: int) -> None:
    rewards = pytest.importorskip("trl.rewards.other_rewards")
    theirs = rewards.get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=20)
    ids = [[1] * length]
    assert overlong([""], completion_ids=ids, max_length=100, buffer_length=20) == theirs(completion_ids=ids)


def test_overlong_agrees_with_numbers_worked_out_by_hand() -> None:
    ids = [[1] * n for n in (80, 85, 90, 100, 101)]
    given = {"completion_ids": ids, "max_length": 100, "buffer_length": 20}
    assert overlong([""] * 5, **given) == [0.0, -0.25, -0.5, -1.0, -1.0]
    assert overlong([""] * 5, **given, penalty=0.5) == [0.0, -0.125, -0.25, -0.5, -0.5]
    assert overlong([""], completion_ids=[[1] * 101], max_length=100, buffer_length=0) == [-1.0]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_repetition_is_what_trl_computes(size: int) -> None:
    rewards = pytest.importorskip("trl.rewards.other_rewards")
    ids = [[1, 2, 3, 4], [5, 5, 5, 5, 5], [], [1], [1, 2, 1, 2, 1, 2]]
    theirs = rewards.get_repetition_penalty_reward(ngram_size=size)(completion_ids=ids)
    assert repetition([""] * 5, completion_ids=ids, ngram_size=size) == pytest.approx(theirs)


def test_repetition_agrees_with_numbers_worked_out_by_hand() -> None:
    assert repetition(["", ""], completion_ids=[[5] * 5, [1, 2]], ngram_size=2) == [-0.75, 0.0]
    words = repetition(
        ["No no NO no", "a b c"], completion_ids=[[], []], ngram_size=1, unit="words", max_penalty=-2.0
    )
    assert words == [-1.5, 0.0]


def test_regex_and_format_match_patterns() -> None:
    assert regex(["a1", "b"], pattern=r"\d") == [1.0, 0.0]
    assert regex(["A1", "1a"], pattern="a", mode="match", flags="i") == [1.0, 0.0]
    assert regex(["ab", "abc"], pattern="ab", mode="fullmatch") == [1.0, 0.0]
    assert regex(["x", "y", "z"], column="p", p=["x", "x", None]) == [1.0, 0.0, None]
    assert form(["Steps:\n1\nAnswer: 4", "Answer: 4"], pattern=r"Steps:.*Answer: \d") == [1.0, 0.0]
    assert form(["<think>a</think><answer>b</answer>", "b"]) == [1.0, 0.0]


@pytest.mark.parametrize("name", ["regex", "json_schema", "numeric", "code"])
def test_a_column_that_the_data_lacks_is_named_before_anything_is_judged(name: str) -> None:
    with RewardPool(resolve_all([{"name": name, "kwargs": {"column": "mine"}}]), num_workers=1) as pool:
        pool.check_columns(["mine", "answer"])
        with pytest.raises(
            RewardError, match=f"reward '{name}' needs the column 'mine'.*its columns: answer"
        ):
            pool.check_columns(["answer"])


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ('{"name": "Ada", "age": 36}', 1.0),
        ('{"age": 36}', 0.5),
        ('{"name": "Ada", "age": -1}', 0.5),
        ('{"name": "Ada", "born": 1815}', 0.5),
        ('{"name": "Ada"', 0.0),
        ('{"name": NaN}', 0.0),
        ("[" * 100_000, 0.0),
        ("9" * 10_000, 0.0),
        ("", 0.0),
        ("\ud800", 0.0),
        (f'Here:\n{TICKS}json\n{{"name": "Ada"}}\n{TICKS}\nDone.', 1.0),
        (f'{TICKS}\n{{}}\n{TICKS}\nNo:\n{TICKS}\n{{"name": "Ada"}}\n{TICKS}', 1.0),
        ('<think>{}</think><answer>{"name": "Ada"}</answer>', 1.0),
    ],
)
def test_json_is_validated_against_the_schema(text: str, reward: float) -> None:
    assert json_schema([text], schema=SCHEMA, valid_json=0.5) == [reward]


def test_a_schema_for_each_row_and_one_in_a_file(tmp_path) -> None:
    schemas = [json.dumps({"type": "number"}), {"type": "string"}, None]
    assert json_schema(["1", "1", "1"], column="s", s=schemas) == [1.0, 0.0, None]
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    assert json_schema(['{"name": "Ada"}'], schema=str(tmp_path / "schema.json")) == [1.0]


def test_a_fence_is_the_last_one_that_is_closed() -> None:
    assert fenced("no") is None
    assert fenced(f"{TICKS}py\na\n{TICKS}\n{TICKS}\nb\n{TICKS}") == "b"
    assert fenced(f"{TICKS}py\na\n{TICKS}\n{TICKS}\nnever closed") == "a"
    assert fenced(f"{TICKS}`\n{TICKS}\ninner\n{TICKS}\n{TICKS}`") == f"{TICKS}\ninner\n{TICKS}"


@pytest.mark.parametrize(
    ("name", "kwargs", "problem"),
    [
        ("overlong", {}, "needs kwargs.max_length and kwargs.buffer_length"),
        (
            "overlong",
            {"max_length": 10, "buffer_length": 11},
            "buffer_length=11 must lie between 0 and max_length=10",
        ),
        ("overlong", {"max_length": 10, "buffer_length": 1, "penalty": -1}, "penalty=-1 would reward length"),
        ("overlong", {"max_length": "10", "buffer_length": 1}, "a wrong type in"),
        ("repetition", {"max_penalty": 1.0}, "would reward repetition"),
        ("repetition", {"ngram_size": 0}, "ngram_size=0 must be at least 1"),
        ("repetition", {"unit": "letters"}, "choose tokens or words"),
        ("length", {"target": 0}, "target=0 must be at least 1"),
        ("exact", {"extract": "some"}, "choose one of all, answer, boxed, last_line"),
        ("regex", {}, "needs kwargs.pattern"),
        ("regex", {"pattern": "a", "column": "b"}, "needs kwargs.pattern"),
        ("regex", {"pattern": "("}, "is not a regular expression"),
        ("regex", {"pattern": "a", "mode": "find"}, "choose one of search, match, fullmatch"),
        ("regex", {"pattern": "a", "flags": "z"}, "it may hold i, m, s, x, a"),
        ("format", {"pattern": "("}, "is not a regular expression"),
        ("json_schema", {}, "needs kwargs.schema"),
        ("json_schema", {"schema": {"type": "strange"}}, "is not a JSON Schema"),
        ("json_schema", {"schema": "no/such/schema.json"}, "cannot be read"),
        ("numeric", {"tolerance": -1}, "tolerance=-1 must be a number of at least 0"),
        ("numeric", {"tolerance": float("nan")}, "tolerance=nan is not a finite number"),
        ("length", {"target": float("inf")}, "target=inf is not a finite number"),
        ("json_schema", {"schema": {}, "valid_json": "half"}, "valid_json=half is not a number"),
        ("code", {"max_tests": 0}, "max_tests=0 must be at least 1"),
        ("code", {"log_extra": 1}, "kwargs may not set log_extra"),
        ("judge", {}, "needs kwargs.base_url"),
        ("judge", {"base_url": "localhost", "model": "m"}, "is not a URL"),
        ("judge", {"base_url": "http://x", "model": "m", "template": "?"}, "template has no {completion}"),
        ("judge", {"base_url": "http://x", "model": "m", "score_pattern": "x"}, "needs a group"),
        (
            "judge",
            {"base_url": "http://x", "model": "m", "min_score": 10.0},
            "min_score=10 is not below max_score=10",
        ),
        ("judge", {"base_url": "http://x", "model": "m", "api_key_env": "NO_SUCH_KEY"}, "NO_SUCH_KEY"),
        (
            "judge",
            {"base_url": "http://x", "model": "m", "max_concurrency": 0},
            "max_concurrency=0 must be more than 0",
        ),
    ],
)
def test_options_that_cannot_be_stop_before_anything_starts(name: str, kwargs: dict, problem: str) -> None:
    with pytest.raises(RewardError) as caught:
        resolve({"name": name, "kwargs": kwargs})
    assert problem in str(caught.value)
    assert f"reward '{name}'" in str(caught.value)
