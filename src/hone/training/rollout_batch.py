"""The rollouts of a step, and their form in a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from hone.types import Completion, Group, Prompt, Rollout, VersionSpan


@dataclass
class RolloutBatch:
    """The rollouts of a step."""

    step: int
    groups: list[Group]
    """Those to train on: all of `drawn`, or with dynamic sampling some of them."""
    drawn: list[Group]
    metrics: dict[str, float] = field(default_factory=dict)
    """Of their sampling."""
    reported: dict[str, float] = field(default_factory=dict)
    """What the reward pool counted and reward functions reported (`RewardPool.metrics`)."""
    aborted: list[Group] = field(default_factory=list)
    """Groups that were given up before they were sampled: one rollout without tokens stands for each."""


def staleness(groups: Sequence[Group], version: int) -> dict[str, float]:
    """How many versions older than `version` the weights were that sampled each token: mean and maximum."""
    spans = [span for group in groups for rollout in group.rollouts for span in rollout.completion.versions]
    ages = [(version - span.version, span.end - span.start) for span in spans]
    tokens = sum(count for _, count in ages)
    return {
        "staleness_mean": sum(age * count for age, count in ages) / tokens if tokens else 0.0,
        "staleness_max": float(max((age for age, count in ages if count), default=0)),
    }


def spans_per_rollout(groups: Sequence[Group]) -> float:
    """How many versions of the weights sampled a completion, on average."""
    spans = [len(rollout.completion.versions) for group in groups for rollout in group.rollouts]
    return sum(spans) / len(spans) if spans else 0.0


def to_state(batch: RolloutBatch) -> dict[str, Any]:
    """Numbers, strings and containers, from which `from_state` makes the same batch."""
    chosen = {id(group) for group in batch.groups}
    prompts = {id(rollout.prompt): rollout.prompt for group in batch.drawn for rollout in group.rollouts}
    index = {key: i for i, key in enumerate(prompts)}
    return {
        "step": batch.step,
        "metrics": dict(batch.metrics),
        "reported": dict(batch.reported),
        "prompts": [_plain(asdict(prompt)) for prompt in prompts.values()],
        "groups": [
            {
                "id": group.id,
                "trained": id(group) in chosen,
                "rollouts": [_rollout_state(one, index[id(one.prompt)]) for one in group.rollouts],
            }
            for group in batch.drawn
        ],
    }


def from_state(state: Mapping[str, Any]) -> RolloutBatch:
    """The batch that `to_state` was given."""
    prompts = [Prompt(**{**one, "tokens": tuple(one["tokens"])}) for one in state["prompts"]]
    drawn = [
        Group(one["id"], [_rollout(found, prompts) for found in one["rollouts"]]) for one in state["groups"]
    ]
    groups = [group for group, one in zip(drawn, state["groups"], strict=True) if one["trained"]]
    return RolloutBatch(state["step"], groups, drawn, dict(state["metrics"]), dict(state["reported"]))


def _rollout_state(rollout: Rollout, prompt: int) -> dict[str, Any]:
    plain = {name: value for name, value in vars(rollout).items() if name not in ("prompt", "completion")}
    spans = [list(span) for span in rollout.completion.versions]
    completion = {**vars(rollout.completion), "versions": spans}
    return {**_plain(plain), "prompt": prompt, "completion": completion}


def _rollout(state: Mapping[str, Any], prompts: Sequence[Prompt]) -> Rollout:
    completion = dict(state["completion"])
    completion["versions"] = tuple(VersionSpan(*span) for span in completion["versions"])
    return Rollout(**{**state, "prompt": prompts[state["prompt"]], "completion": Completion(**completion)})


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """With values of other types, which rows and reward functions may have, as the log of rollouts writes them."""
    return dict(json.loads(json.dumps(values, default=str)))
