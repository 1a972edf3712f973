"""The configuration of `hone online-dpo`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from hone.config.schedule import points, value_at
from hone.config.schema.base import Count, Schedule, section
from hone.config.schema.online import OnlinePolicyConfig, RLConfig, RLSection
from hone.config.schema.pair_settings import PairBatchingConfig, PairPackingConfig


class OnlineDPOSection(RLSection):
    """Direct preference optimization on pairs of the policy's own completions: pairs, loss, validations."""

    trains_on_pairs: ClassVar[bool] = True

    num_generations_per_prompt: int = Field(2, ge=2)
    """Completions of each prompt. Those with the highest and the lowest reward are its pair."""
    beta: Schedule = 0.1
    """How strongly the policy is kept near the reference model (the initial policy). A schedule maps the number of
    finished steps to values, such as `{0: 0.1, 100: 0.05}`."""
    beta_schedule: Literal["linear", "step"] = "step"
    """Between two points of a schedule: interpolate, or keep the earlier value."""
    loss_type: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    """`sigmoid`: DPO. `ipo`: IPO, on mean log-probabilities per token. `hinge`: RSO."""
    missing_eos_penalty: float | None = Field(None, gt=0)
    """Subtracted from the reward of a truncated completion when pairs are chosen; null: nothing."""

    def beta_at(self, step: int) -> float:
        """Beta after `step` finished steps."""
        return value_at(points(self.beta), step, self.beta_schedule)

    @field_validator("beta")
    @classmethod
    def _beta_is_positive(cls, value: Any) -> Any:
        if (least := min(number for _, number in points(value))) <= 0:
            raise ValueError(f"expected more than 0, got {least:g}")
        return value


class OnlineDPOPolicyConfig(OnlinePolicyConfig):
    """The model that is trained, and how it samples. Training batch sizes count pairs."""

    sequences_per_unit: ClassVar[int] = 2

    train_global_batch_size: int = Field(32, ge=1)
    """Pairs per optimizer step, over all devices; divides num_prompts_per_step."""
    train_micro_batch_size: Count | None = None
    """Pairs per forward and backward pass on one device; null: as many as fit. Changes memory and speed, never the
    result."""
    dynamic_batching: PairBatchingConfig = section(PairBatchingConfig)
    sequence_packing: PairPackingConfig = section(PairPackingConfig)


class OnlineDPOConfig(RLConfig):
    """All settings of `hone online-dpo`."""

    policy: OnlineDPOPolicyConfig = section(OnlineDPOPolicyConfig)
    online_dpo: OnlineDPOSection = section(OnlineDPOSection)

    @property
    def uses_reference_model(self) -> bool:
        """Whether the initial policy is kept as a reference: always."""
        return True

    def problems(self) -> Iterator[str]:
        """A penalty that dynamic sampling does not see."""
        penalty = self.online_dpo.missing_eos_penalty
        if self.online_dpo.use_dynamic_sampling and penalty is not None:
            yield (
                "online_dpo.use_dynamic_sampling=true drops groups of equal rewards before "
                f"online_dpo.missing_eos_penalty={penalty:g} is subtracted: set the first to false, or the second "
                "to null"
            )
