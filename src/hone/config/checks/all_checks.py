"""The checks that loading runs before a model loads, in order.

A check is a function of a configuration that yields one sentence for each thing that is wrong. The sentence names the
keys, their values and the fix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import UnionType
from typing import Any

from hone.config.checks import endpoint, losses, models, rollouts, run
from hone.config.schema import EvalConfig, OnlineConfig, PolicyGradientConfig, RLConfig, TrainingConfig

CHECKS: tuple[tuple[type | UnionType, Callable[[Any], Iterator[str]]], ...] = (
    (TrainingConfig | EvalConfig, run.data),
    (TrainingConfig, lambda config: models.model_problems(config.policy)),
    (TrainingConfig, run.length),
    (TrainingConfig, run.checkpoints),
    (OnlineConfig | EvalConfig, rollouts.environments),
    (OnlineConfig, rollouts.rollouts),
    (OnlineConfig, rollouts.generators),
    (OnlineConfig, rollouts.vllm),
    (RLConfig, rollouts.asynchronous),
    (RLConfig, rollouts.rewards),
    (PolicyGradientConfig, losses.policy_loss),
    (OnlineConfig, rollouts.policy_sampling),
    (OnlineConfig, endpoint.training),
    (EvalConfig, rollouts.evaluation),
    (EvalConfig, endpoint.evaluation),
    (TrainingConfig, lambda config: config.problems()),
)
"""Each check, after the configurations that it applies to."""


def problems(config: TrainingConfig | EvalConfig) -> list[str]:
    """Everything that is wrong with settings that cannot work together, as sentences."""
    return [found for configs, check in CHECKS if isinstance(config, configs) for found in check(config)]
