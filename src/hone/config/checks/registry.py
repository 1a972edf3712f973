"""The checks that loading runs before a model loads, in order.

A check is a function of a configuration that yields one sentence for each thing that is wrong. The sentence names the
keys, their values and the fix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import UnionType
from typing import Any

from hone.config.checks import losses, models, preferences, rollouts, run
from hone.config.schema import (
    DistillConfig,
    DPOConfig,
    EvalConfig,
    GRPOConfig,
    OnlineConfig,
    PolicyGradientConfig,
    PPOConfig,
    RLConfig,
    TrainingConfig,
)

CHECKS: tuple[tuple[type | UnionType, Callable[[Any], Iterator[str]]], ...] = (
    (TrainingConfig | EvalConfig, run.data),
    (TrainingConfig, models.policy),
    (TrainingConfig, run.length),
    (TrainingConfig, run.checkpoints),
    (DPOConfig, preferences.preferences),
    (DPOConfig, preferences.dropout),
    (OnlineConfig | EvalConfig, rollouts.environments),
    (OnlineConfig, rollouts.rollouts),
    (RLConfig, rollouts.rewards),
    (PolicyGradientConfig, losses.policy_loss),
    (GRPOConfig, losses.grpo),
    (PPOConfig, losses.ppo),
    (DistillConfig, losses.distill),
    (OnlineConfig, rollouts.policy_sampling),
    (PPOConfig, models.value_model),
    (EvalConfig, rollouts.evaluation),
    (OnlineConfig, lambda config: config.problems()),
)
"""Which configurations a check is for, and the check."""


def problems(config: TrainingConfig | EvalConfig) -> list[str]:
    """Everything that is wrong with settings that cannot work together, as sentences."""
    return [found for kinds, check in CHECKS if isinstance(config, kinds) for found in check(config)]
