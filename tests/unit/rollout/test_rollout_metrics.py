"""What metrics of rollouts are called: an accuracy is a share of right answers, and nothing else is called so."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tiny import grpo_config, make_groups

from hone.config.metric_names import column_of
from hone.evaluation.metrics import is_right
from hone.rollout.environments.episode_result import EpisodeResult, add_rewards
from hone.rollout.rewards.resolve import resolve_all
from hone.rollout.rewards.scoring_batch import Scored
from hone.rollout.rollout_metrics import describe
from hone.rollout.scoring import score_rollouts
from hone.training.online import stop_when_reached
from hone.types import Group


class Judges:
    """A pool whose functions have said what they say."""

    def __init__(self, entries: list[Any], said: dict[str, list[float | None]]) -> None:
        self.specs, self.said = resolve_all(entries), said

    async def score(self, prompts: list[Any], *_: Any, **how: Any) -> list[Scored]:
        rows = [{name: values[i] for name, values in self.said.items()} for i in range(len(prompts))]
        return [Scored(row, sum(value or 0.0 for value in row.values())) for row in rows]


def judged(entries: list[Any], said: dict[str, list[float | None]]) -> list[Group]:
    count = len(next(iter(said.values())))
    groups = make_groups([[0.0] * count])
    asyncio.run(score_rollouts(groups[0].rollouts, Judges(entries, said)))  # type: ignore[arg-type]
    return groups


MINE = {"path": "my_rewards.mine"}


@pytest.mark.parametrize(
    ("entries", "said", "accuracy"),
    [
        (["answer"], {"answer": [1.0, 0.0, 0.0, 1.0]}, 0.5),
        (["format", "answer"], {"format": [1.0, 1.0, 1.0, 1.0], "answer": [1.0, 0.0, 0.0, 0.0]}, 0.25),
        ([{"name": "style", "path": "format"}, MINE], {"style": [1.0, 1.0], "mine": [0.0, 1.0]}, 0.5),
        ([MINE], {"mine": [-1.0, 1.0, -1.0, -1.0]}, 0.25),
        ([MINE], {"mine": [-43.0, -12.0]}, None),
        ([MINE], {"mine": [0.3, 1.0]}, None),
        ([MINE, "answer"], {"mine": [0.3, 1.0], "answer": [1.0, 0.0]}, None),
        (["length"], {"length": [0.0, 1.0]}, None),
        (["reward_model", "answer"], {"reward_model": [2.5, -1.0], "answer": [0.0, 1.0]}, 0.5),
        (["math", "code"], {"math": [1.0, None, 0.0, None], "code": [None, 1.0, None, 1.0]}, 0.75),
        (["math", "code"], {"math": [1.0, None], "code": [None, 0.5]}, None),
    ],
)
def test_accuracy_is_the_share_of_right_answers_or_not_there(
    entries: list[Any], said: dict[str, list[float | None]], accuracy: float | None
) -> None:
    if "reward_model" in entries:
        entries = [
            {"name": "reward_model", "kwargs": {"model": "m"}} if e == "reward_model" else e for e in entries
        ]
    metrics = describe(judged(entries, said))
    assert metrics.get("accuracy") == accuracy
    for name, values in said.items():
        given = [value for value in values if value is not None]
        assert metrics[f"reward_{name}"] == pytest.approx(sum(given) / len(given))


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"val_accuracy": 0.95, "val_reward": 0.1}, "accuracy reached 0.95"),
        ({"val_accuracy": 0.5, "val_reward": 3.0}, None),
        ({"val_reward": 3.0}, "val_reward reached 3"),  # nothing says right or wrong
        ({"reward": 3.0}, None),
    ],
)
def test_a_run_stops_with_the_name_of_the_metric_that_reached_its_threshold(
    metrics: dict[str, float], said: str | None
) -> None:
    class Stopped:
        reason: str | None = None

        @property
        def metrics(self) -> Stopped:
            return self

        def column_of(self, metric: str, latest: dict[str, float]) -> str:
            return column_of(metric, [latest])

        def end_at_goal(self, reason: str) -> None:
            self.reason = reason

    config = grpo_config(grpo={"stop_at_validation_metric": "accuracy", "stop_at_validation_threshold": 0.9})
    run = Stopped()
    stop_when_reached(metrics, config, run)  # type: ignore[arg-type]
    assert run.reason == said


def test_an_environment_judges_where_no_function_does() -> None:
    groups = judged(["format"], {"format": [1.0, 1.0]})
    for rollout, won in zip(groups[0].rollouts, (1.0, 0.0), strict=True):
        add_rewards([EpisodeResult(rollout, "Shop", won)], "")
    assert describe(groups)["accuracy"] == 0.5


def test_an_evaluation_counts_by_the_same_judge() -> None:
    [group] = judged(["format", "answer"], {"format": [1.0, 0.0], "answer": [0.0, 1.0]})
    assert [is_right(rollout) for rollout in group.rollouts] == [False, True]
    [group] = judged(["format"], {"format": [1.0, 0.0]})  # where the form is all that is asked for
    assert [is_right(rollout) for rollout in group.rollouts] == [True, False]
