"""Every preset does what it is there for: it can be planned, and one step of it raises what was rewarded."""

from __future__ import annotations

import math
from typing import get_args

import pytest
from tiny import make_groups, make_learner, make_model, run

from hone.algorithms import grpo, policy_loss
from hone.cli import main
from hone.config import load
from hone.config.schema.grpo import GRPOConfig, Preset
from hone.types import Group

NAMES = get_args(Preset)
REWARDS: list[list[float | None]] = [[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 1.0, None]]


def scored() -> list[Group]:
    groups = make_groups(REWARDS, longest=12)
    for rollout in (rollout for group in groups for rollout in group.rollouts):
        rollout.rewards = {"answer": rollout.reward, "format": 1.0}
        rollout.weights, rollout.judge = {"answer": 1.0, "format": 0.5}, "answer"
    return groups


@pytest.mark.parametrize("name", NAMES)
def test_one_step(name: str) -> None:
    overrides = [f"grpo.preset={name}", "policy.precision=float32", "policy.train_global_batch_size=8"]
    config = load(
        "grpo", None, [*overrides, "grpo.num_prompts_per_step=2", "grpo.num_generations_per_prompt=4"]
    ).config
    assert isinstance(config, GRPOConfig)
    learner, reference = (
        make_learner(make_model(), config.policy),
        make_learner(make_model(seed=1), frozen=True),
    )
    groups = scored()
    samples = [sample for sample in policy_loss.samples_per_rollout(groups) if sample is not None]
    before = run(learner.forward(samples))
    metrics = run(grpo.step(learner, reference if config.uses_reference_model else None, groups, config))
    assert all(math.isfinite(value) for value in metrics.values()), metrics
    assert metrics["updates"] == 1
    assert metrics["trained_samples"] == 7
    assert metrics["grad_norm"] > 1e-6
    assert ("kl" in metrics) == config.uses_reference_model
    gains = [float((a - b).mean()) for a, b in zip(run(learner.forward(samples)), before, strict=True)]
    right = [float(sample.sequence_columns["right_tokens"] > 0) for sample in samples]
    raised = sum(g * r for g, r in zip(gains, right, strict=True)) / sum(right)
    others = sum(g * (1 - r) for g, r in zip(gains, right, strict=True)) / (len(right) - sum(right))
    assert raised > others


@pytest.mark.parametrize("name", NAMES)
def test_plan(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "grpo", f"grpo.preset={name}"]) == 0
    assert f"grpo.preset={name}: " in capsys.readouterr().out
