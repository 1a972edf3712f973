"""Results of rollouts with environments: failures, rewards and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hone.errors import RewardError
from hone.rollout.workers.failure_budget import FailureBudget
from hone.types import Rollout

NO_REWARD = "neither a reward function nor the environment gave a reward"
"""A failure that is no defect: a rollout that ended before its environment could judge it."""


@dataclass
class EpisodeResult:
    """A finished rollout and its environment's reward."""

    rollout: Rollout
    environment: str = ""
    """The name of the environment's reward; empty if there is no environment."""
    reward: float | None = None
    weight: float = 1.0


def check_failures(results: Sequence[EpisodeResult], allowed: float) -> None:
    """Raise RewardError if more than the fraction `allowed` failed in their environments (see FailureBudget)."""
    failures = FailureBudget(allowed, len(results))
    for number, one in enumerate(results):
        if one.rollout.failure:
            failures.add(number, one.rollout.failure, one.rollout.failure.split(":")[0])
    failures.check("rollouts failed in their environment", "env.timeout_s")


def add_rewards(results: Sequence[EpisodeResult], no_function_applies: str) -> None:
    """Add each environment's reward to those of the reward functions. Raises RewardError for two of the same name."""
    for one in results:
        rollout = one.rollout
        if not one.environment or (rollout.failure and rollout.failure != no_function_applies):
            continue
        if one.environment in rollout.rewards:
            raise RewardError(
                f"a reward function and the environment are both named '{one.environment}': give the function another "
                "`name` in rewards.functions"
            )
        rollout.rewards = {**rollout.rewards, one.environment: one.reward}
        rollout.weights = {**rollout.weights, one.environment: one.weight}
        rollout.judge = rollout.judge or one.environment
        if one.reward is not None:
            rollout.failure = None
            rollout.reward = (rollout.reward or 0.0) + one.weight * one.reward
        elif rollout.reward is None:
            rollout.failure = rollout.failure or NO_REWARD


def episode_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Metrics of rollouts with environments: means over those rollouts, and sums of failures and seconds."""
    rollouts = [rollout for rollout in rollouts if rollout.stats]
    if not rollouts:
        return {}
    sums = {name: sum(rollout.stats[name] for rollout in rollouts) for name in rollouts[0].stats}
    return {
        "turns": sums["turns"] / len(rollouts),
        "tool_calls": sums["tool_calls"] / len(rollouts),
        "tool_failures": sums["tool_failures"],
        "cut_observations": sums["cut"],
        "out_of_turns": sum(rollout.completion.finish == "turns" for rollout in rollouts) / len(rollouts),
        "env_seconds": sums["env_seconds"],
    }
