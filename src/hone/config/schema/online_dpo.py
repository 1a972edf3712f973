"""The configuration of `hone online-dpo`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from hone.config.paths import LocalPath
from hone.config.schedule import points, value_at
from hone.config.schema.base import Count, Schedule, section
from hone.config.schema.dpo import PairBatchingConfig, PairPackingConfig
from hone.config.schema.online import OnlinePolicyConfig, RLConfig, RLSection
from hone.config.schema.run import OnlineCheckpointingConfig


class OnlineDPOSection(RLSection):
    """Direct preference optimization on pairs of the policy's own completions: pairs, loss, validation."""

    trains_on_pairs: ClassVar[bool] = True

    num_generations_per_prompt: int = Field(2, ge=2)
    """Completions of each prompt. The one with the highest reward and the one with the lowest are its pair."""
    beta: Schedule = 0.1
    """How strongly the policy is held to the model that it began as; `{0: 0.1, 100: 0.05}`: it changes, by the number
    of steps done."""
    beta_schedule: Literal["linear", "step"] = "step"
    """How a beta that changes gets from one point to the next: in a line, or at once."""
    loss_type: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    """`sigmoid`: DPO. `ipo`: IPO, of means over a completion's tokens. `hinge`: RSO."""
    missing_eos_penalty: float | None = Field(None, gt=0)
    """Taken off the reward of a completion that was cut off by its length, when pairs are chosen; null: nothing."""

    def beta_at(self, step: int) -> float:
        """Beta once `step` steps are done."""
        return value_at(points(self.beta), step, self.beta_schedule)

    @field_validator("beta")
    @classmethod
    def _beta_is_positive(cls, value: Any) -> Any:
        if (least := min(number for _, number in points(value))) <= 0:
            raise ValueError(f"expected more than 0, got {least:g}")
        return value


class OnlineDPOPolicyConfig(OnlinePolicyConfig):
    """The model that is trained, and how it samples. Sizes of training batches count pairs."""

    sequences_per_unit: ClassVar[int] = 2

    train_global_batch_size: int = Field(32, ge=1)
    """Pairs per optimizer step, over all devices; divides the prompts of a step."""
    train_micro_batch_size: Count | None = None
    """Pairs per forward and backward on one device; null: chosen to fit it. Changes memory and speed, never the
    result."""
    dynamic_batching: PairBatchingConfig = section(PairBatchingConfig)
    sequence_packing: PairPackingConfig = section(PairPackingConfig)


class OnlineDPOCheckpointingConfig(OnlineCheckpointingConfig):
    """When checkpoints are written, and which are kept. The newest is always kept."""

    checkpoint_dir: LocalPath = "results/online-dpo"
    """The run's folder. The same command again goes on from the newest checkpoint in it."""


class OnlineDPOConfig(RLConfig):
    """All settings of `hone online-dpo`."""

    policy: OnlineDPOPolicyConfig = section(OnlineDPOPolicyConfig)
    online_dpo: OnlineDPOSection = section(OnlineDPOSection)
    checkpointing: OnlineDPOCheckpointingConfig = section(OnlineDPOCheckpointingConfig)

    @property
    def loop(self) -> OnlineDPOSection:
        """How long the run is, when it validates, what it draws with: the section of the command's own name."""
        return self.online_dpo

    @property
    def uses_reference_model(self) -> bool:
        """Whether the model that the run began with is kept beside the policy: always."""
        return True

    def problems(self) -> Iterator[str]:
        """A schedule without points, and a penalty that dynamic sampling does not see."""
        settings = self.online_dpo
        if settings.use_dynamic_sampling and settings.missing_eos_penalty is not None:
            yield (
                "online_dpo.use_dynamic_sampling=true leaves out groups of equal rewards, and knows nothing of "
                f"online_dpo.missing_eos_penalty={settings.missing_eos_penalty:g}: set one of them to null or false"
            )
