"""Mixes of rewards: weights that change over training, functions for the rows of one dataset or environment."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from hone.config.schedule import points, value_at
from hone.config.schema import RewardsConfig
from hone.errors import RewardError
from hone.rollout.rewards.resolve import resolve, resolve_all
from hone.rollout.rewards.reward_pool import RewardPool
from hone.rollout.scoring import open_reward_pool
from hone.tracking import write_rollouts
from hone.types import Completion, Group, Prompt, Rollout
from tests.helpers.pool_helpers import entry, score


@pytest.mark.parametrize(
    ("step", "linear", "stepped"),
    [
        (0, 1.0, 1.0),
        (25, 0.8, 1.0),
        (50, 0.6, 1.0),
        (100, 0.2, 0.2),
        (150, 0.6, 0.2),
        (200, 1.0, 1.0),
        (999, 1.0, 1.0),
    ],
)
def test_a_weight_schedule_agrees_with_numbers_worked_out_by_hand(
    step: int, linear: float, stepped: float
) -> None:
    given = points({100: 0.2, 0: 1.0, 200: 1.0})
    assert value_at(given, step, "linear") == pytest.approx(linear)
    assert value_at(given, step, "step") == stepped


def test_without_steps_the_last_point_holds() -> None:
    assert value_at(points({0: 1, 10: 3}), None) == 3.0
    assert value_at(points(0.5), None) == value_at(points(0.5), 7) == 0.5


@pytest.mark.parametrize(
    ("weight", "problem"),
    [
        ({}, "a schedule begins at step 0"),
        ({5: 1.0}, "a schedule begins at step 0, but its first is 5"),
        ({0: 1.0, -1: 2.0}, "-1 is no step"),
        ({0: 1.0, "10": 2.0}, "'10' is no step"),
        ({0: 1.0, 2.5: 2.0}, "2.5 is no step"),
        ({0: float("inf")}, "expected a finite number"),
        ({0: "much"}, "expected a finite number"),
        ([0, 1], "expected a finite number"),
        (True, "expected a finite number"),
    ],
)
def test_malformed_weights_are_refused(weight: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem.replace("(", r"\(")):
        points(weight)
    with pytest.raises(RewardError) as refused:
        resolve({"name": "math", "weight": weight})
    assert "reward 'math': weight" in str(refused.value)


def test_weights_change_with_the_step_and_are_told() -> None:
    entries = [
        {**entry("length"), "name": "a", "weight": {0: 1.0, 10: 0.0}},
        {**entry("length"), "name": "b", "weight": {0: 0.0, 10: 2.0}, "weight_schedule": "step"},
    ]

    async def run() -> None:
        with RewardPool(resolve_all(entries), num_workers=1) as pool:
            for step, wanted, weights in (
                (0, 4.0, (1, 0)),
                (5, 2.0, (0.5, 0)),
                (10, 8.0, (0, 2)),
                (None, 8.0, (0, 2)),
            ):
                pool.set_progress(step)
                scored = await pool.score(["p"], ["four"], {})
                assert (scored[0].reward, scored[0].rewards) == (wanted, {"a": 4.0, "b": 4.0})
                metrics = pool.metrics()
                assert (metrics["weight_a"], metrics["weight_b"]) == weights

    asyncio.run(run())


def test_a_weight_that_is_zero_for_now_still_judges() -> None:
    only = {**entry("length"), "weight": {0: 0.0, 10: 1.0}}

    async def run() -> None:
        with RewardPool(resolve_all([only]), num_workers=1) as pool:
            pool.set_progress(0)
            assert (await pool.score(["p"], ["x"], {}))[0].reward == 0.0

    asyncio.run(run())


def test_a_function_for_one_dataset_sees_no_other_row() -> None:
    entries = [
        {**entry("length"), "name": "maths", "datasets": ["gsm8k"]},
        {**entry("length"), "name": "code", "datasets": ["data/code.jsonl"], "weight": 10.0},
        {**entry("chunk_sizes"), "name": "robots", "envs": ["maze"]},
    ]
    sources = [("gsm8k", ""), ("code", "maze"), ("gsm8k#2", ""), ("other", "")]

    async def run() -> None:
        with RewardPool(resolve_all(entries), num_workers=1, max_failure_fraction=0.5) as pool:
            scored = await pool.score(["p"] * 4, ["a", "bb", "ccc", "dddd"], {}, sources=sources)
            assert [one.reward for one in scored] == [1.0, 21.0, 3.0, None]
            assert scored[0].rewards == {"maths": 1.0, "code": None, "robots": None}
            assert scored[1].rewards == {"maths": None, "code": 2.0, "robots": 1.0}
            assert "no reward function applies" in str(scored[3].failure)

    asyncio.run(run())


@pytest.mark.parametrize("names", ["gsm8k", [], [1]])
def test_names_of_datasets_are_a_list(names: Any) -> None:
    with pytest.raises(RewardError, match="datasets must be a list of names"):
        resolve({"name": "math", "datasets": names})


def test_without_sources_every_function_sees_every_row() -> None:
    assert score([{**entry("length"), "datasets": ["x"]}], ["ab"])[0].reward == 2.0


def test_a_configuration_reaches_the_pool() -> None:
    """From the settings as in a file, numbers of steps among them, to what a worker is told."""
    text = """
functions: [{name: length, weight: {0: 1.0, 10: 0.0}, datasets: [data/a.jsonl]}]
load_timeout_s: 7
memory_limit_mb: 512
sandbox: {timeout_s: 1.5, memory_mb: 128}
"""
    config = RewardsConfig.model_validate(yaml.safe_load(text), strict=False)
    with open_reward_pool(config) as pool:
        assert [spec.weight_at(5) for spec in pool.specs] == [0.5]
        assert [function.weight_at(5) for function in config.functions] == [0.5]
        assert pool.specs[0].applies("a", "")
        assert not pool.specs[0].applies("b", "")
        limits = pool.limits
        assert (limits.load_timeout_s, limits.memory_mb) == (7, 512)
        assert (limits.sandbox.timeout_s, limits.sandbox.memory_mb, limits.sandbox.max_processes) == (
            1.5,
            128,
            16,
        )


def test_a_run_writes_down_what_functions_told_of_a_rollout(tmp_path: Path) -> None:
    rollout = Rollout(
        Prompt("p", (1,), "2+2?"), Completion.of_version((2,), (-0.5,), "stop", 0), "4", extra={"found": "4"}
    )
    write_rollouts(tmp_path / "step_1.jsonl", 1, [Group("p", [rollout])])
    assert json.loads((tmp_path / "step_1.jsonl").read_text())["extra"] == {"found": "4"}
