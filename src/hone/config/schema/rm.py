"""The configuration of `hone rm`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from hone.config.schema.base import section
from hone.config.schema.data import PreferenceDataConfig
from hone.config.schema.pair_settings import PairPolicyConfig, PreferenceCheckpointingConfig
from hone.config.schema.supervised import SupervisedConfig, SupervisedSection


class RMSection(SupervisedSection):
    """Reward models: what they learn from, the length of the run, its validations."""

    reward_model_type: Literal["bradley_terry", "regression"] = "bradley_terry"
    """`bradley_terry`: from pairs; an optional column `margin` says by how much the better answer is better.
    `regression`: from single answers, each with a number in the column `score`."""
    use_margins: bool = True
    """Require that a pair's scores differ by its row's margin, where it has one."""
    center_rewards_coefficient: float | None = Field(None, ge=0)
    """Weight of the squared sum of a pair's scores, which keeps scores near 0 (0.01 is usual); null: 0."""


class RMPolicyConfig(PairPolicyConfig):
    """The model that is trained: a language model, which gets a new head, or a reward model. Batch sizes count
    pairs."""

    has_scalar_head: ClassVar[bool] = True


class RMConfig(SupervisedConfig):
    """All settings of `hone rm`."""

    policy: RMPolicyConfig = section(RMPolicyConfig)
    rm: RMSection = section(RMSection)
    data: PreferenceDataConfig = section(PreferenceDataConfig)
    checkpointing: PreferenceCheckpointingConfig = section(PreferenceCheckpointingConfig)
