"""Config entries: what they resolve to, and what is refused before anything is imported."""

from __future__ import annotations

import pickle

import pytest

from hone.config.schema import RewardsConfig
from hone.errors import RewardError
from hone.rollout.rewards.resolve import RewardSpec, resolve, resolve_all
from hone.rollout.scoring import open_reward_pool
from tests.helpers.pool_helpers import FUNCTIONS


def test_a_reward_function_is_named_by_name_module_or_file() -> None:
    assert resolve("answer") == RewardSpec("answer", "answer", 1.0, {})
    assert resolve({"name": "length", "weight": 0.5, "kwargs": {"target": 9}}) == RewardSpec(
        "length", "length", 0.5, {"target": 9}
    )
    assert resolve({"name": "pkg.module.f"}) == RewardSpec("f", "pkg.module.f")
    assert resolve({"name": "mine", "path": "pkg.module.f", "weight": 2}).name == "mine"
    assert resolve({"name": "short", "path": "length"}) == RewardSpec("short", "length")
    spec = resolve(f"{FUNCTIONS.parent}/../helpers/reward_functions.py:length")
    assert spec == RewardSpec("length", f"{FUNCTIONS}:length")
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_a_relative_path_becomes_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FUNCTIONS.parent)
    assert resolve("reward_functions.py:length").target == f"{FUNCTIONS}:length"


def test_the_configuration_describes_the_pool() -> None:
    section = RewardsConfig.model_validate(
        {"functions": [{"name": "answer"}, {"name": "format", "weight": 0.2}]}
    )
    pool = open_reward_pool(section)
    assert pool.specs == [RewardSpec("answer", "answer"), RewardSpec("format", "format", 0.2)]
    pool.close()


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("anwser", "no reward function 'anwser'; did you mean 'answer'"),
        ("nothing_like_it", "Built in: answer, code, exact, format"),
        ({}, "needs a `name` or a `path`"),
        ({"name": "answer", "wieght": 1}, "no key wieght"),
        ({"name": "answer", "weight": "1"}, "weight: expected a finite number"),
        ({"name": "answer", "weight": float("nan")}, "weight: expected a finite number"),
        ({"name": "length", "kwargs": {"taget": 9}}, "no option taget; its options: target"),
        ({"name": "answer", "kwargs": {"completions": []}}, "may not set completions"),
        ("no/such/file.py:f", "there is no file"),
        ("rewards.py", "write rewards.py:function"),
        ("rewards.txt:f", "is not `path/to/file.py:function`"),
        ("a..b", "no reward function 'a..b'"),
    ],
)
def test_a_wrong_entry_is_refused(entry: object, problem: str) -> None:
    with pytest.raises(RewardError) as caught:
        resolve(entry)
    assert problem in str(caught.value)


def test_names_are_unique_and_one_weight_counts() -> None:
    with pytest.raises(RewardError, match="two reward functions are called 'answer'"):
        resolve_all(["answer", "answer"])
    for entries in ([], [{"name": "answer", "weight": 0}]):
        with pytest.raises(RewardError, match="no reward function has a weight"):
            resolve_all(entries)
