"""Metrics of a batch of rollouts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hone.rollout.environments.episode_result import episode_metrics
from hone.types import Group, Rollout


def describe(groups: Sequence[Group]) -> dict[str, float]:
    """Metrics of a batch of rollouts. Failures and exclusions are counted and do not change a reward.

    `reward_NAME` is the mean of a reward function. `accuracy` is present only if answers are judged right or wrong.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    scored = [rollout for rollout in rollouts if rollout.reward is not None]
    names = list(dict.fromkeys(name for rollout in scored for name in rollout.rewards))
    metrics = {
        "samples": float(len(rollouts)),
        "completion_length": _mean([float(len(r.completion.tokens)) for r in rollouts]),
        "truncated": _mean([float(r.completion.finish == "length") for r in rollouts]),
        "excluded": float(sum(r.excluded is not None for r in rollouts)),
        **episode_metrics(rollouts),
    }
    if not scored and not any(r.failure for r in rollouts):  # no rewards in this run
        return metrics
    metrics |= {
        "reward": _mean([r.reward for r in scored if r.reward is not None]),
        "failed": float(len(rollouts) - len(scored)),
        "equal_groups": _mean([float(len({r.reward for r in group.rollouts}) == 1) for group in groups]),
    }
    if (right := accuracy(scored)) is not None:
        metrics["accuracy"] = right
    for name in names:
        metrics[f"reward_{name}"] = _mean([v for r in scored if (v := r.rewards.get(name)) is not None])
    for cause, count in Counter(r.failure.split(":")[0] for r in rollouts if r.failure).items():
        metrics[f"failed_{cause.split(' ')[0]}"] = float(count)
    return metrics


def accuracy(rollouts: Sequence[Rollout]) -> float | None:
    """The fraction of the judged answers that are right. None where nothing judges answers, or where the judging
    function returns other numbers than 1 for right and 0 (or -1) for wrong."""
    judged = [value for rollout in rollouts if (value := rollout.judgement) is not None]
    found = set(judged)
    if not judged or not (found <= {0.0, 1.0} or found <= {-1.0, 1.0}):
        return None
    return sum(value == 1.0 for value in judged) / len(judged)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
