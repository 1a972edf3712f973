"""Settings of every run of the supervised loop."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from hone.config.schema.base import section
from hone.config.schema.model import ModelConfig, OptimizerConfig, adamw
from hone.config.schema.training import AlgorithmSection, TrainingConfig


class SupervisedSection(AlgorithmSection):
    """Length of a supervised run, its validations, and its seed."""

    val_batches: int = Field(8, ge=-1)
    """Batches of each validation; 0 or -1: the whole validation data."""
    val_global_batch_size: int = Field(32, ge=1)
    """Sequences of a validation batch."""
    val_at_start: bool = True
    """Validate before the first step."""


class SupervisedOptimizerConfig(OptimizerConfig):
    """An optimizer class and its arguments."""

    kwargs: dict[str, Any] = adamw(lr=5.0e-6, weight_decay=0.1, beta2=0.98, eps=1.0e-5)
    """Arguments of the class: lr, weight_decay, betas, eps …"""


class SupervisedPolicyConfig(ModelConfig):
    """The model that is trained."""

    disable_dropout: bool = False
    """Turn off the model's own dropout (0.1 in GPT-2). Adapters have `lora.dropout`."""
    optimizer: SupervisedOptimizerConfig = section(SupervisedOptimizerConfig)


class SupervisedConfig(TrainingConfig):
    """Settings of a command that learns from given answers."""

    policy: SupervisedPolicyConfig = section(SupervisedPolicyConfig)

    @property
    def algorithm(self) -> SupervisedSection:
        """The algorithm's own section."""
        own: SupervisedSection = super().algorithm
        return own
