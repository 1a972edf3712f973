"""The configuration of `hone dpo`."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field

from hone.config.paths import LocalPath
from hone.config.schema.base import Count, Derived, RunConfig, derived, section
from hone.config.schema.data import PreferenceDataConfig
from hone.config.schema.model import DynamicBatchingConfig, SequencePackingConfig
from hone.config.schema.run import CheckpointingConfig, ClusterConfig, LoggerConfig
from hone.config.schema.sft import SFTPolicyConfig, SupervisedSection

LossName = Literal[
    "sigmoid",
    "sigmoid_norm",
    "hinge",
    "ipo",
    "robust",
    "exo_pair",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "kto",
    "simpo",
    "orpo",
    "cpo",
]
LOSSES: tuple[str, ...] = get_args(LossName)


def _one_is_a_mapping(value: Any) -> Any:
    """The default is no mapping itself: what is given would be added to it."""
    name = "sigmoid" if value is None else value
    return {name: 1.0} if isinstance(name, str) else value


Losses = Annotated[dict[LossName, float], BeforeValidator(_one_is_a_mapping)]


class DPOSection(SupervisedSection):
    """Learning from comparisons: which loss, how long, and when to validate."""

    reference_policy_kl_penalty: float = Field(0.05, gt=0)
    """beta: how strongly the policy is held to the reference (for simpo, orpo and cpo, which have none: the scale of
    the log-probabilities)."""
    preference_loss: Losses = Field(None, validate_default=True)
    """A loss, or a mapping from losses to weights; null: sigmoid, which is DPO. Further ones are sigmoid_norm, hinge,
    ipo, robust, exo_pair, nca_pair, bco_pair, sppo_hard, aot, aot_unpaired, apo_zero, apo_down, discopop, kto, simpo,
    orpo, cpo."""
    preference_loss_weight: float = Field(1.0, ge=0)
    """Weight of the preference loss as a whole."""
    preference_average_log_probs: bool = False
    """Compare the mean log-probability of an answer's tokens rather than their sum."""
    sft_loss_weight: float = Field(0.0, ge=0)
    """Weight of the negative log-likelihood of the chosen answers."""
    sft_average_log_probs: Derived[bool] = derived("${dpo.preference_average_log_probs}")
    """Take its mean over an answer's tokens rather than its sum."""
    label_smoothing: float | None = Field(None, ge=0, lt=0.5)
    """Chance that a comparison is the wrong way round (sigmoid, sigmoid_norm, robust, exo_pair, aot, aot_unpaired,
    simpo, cpo); null: 0, for exo_pair 0.001."""
    simpo_gamma: float | None = Field(None, ge=0)
    """Reward margin that simpo asks for; null: 0.5."""
    discopop_tau: float | None = Field(None, gt=0)
    """Temperature of the blend in discopop; null: 0.05."""
    desirable_weight: float | None = Field(None, ge=0)
    """Weight of desirable answers in kto; null: 1."""
    undesirable_weight: float | None = Field(None, ge=0)
    """Weight of undesirable answers in kto; null: 1."""


PAIR_TOKENS = "${{mul:2,${{mul:${{policy.max_total_sequence_length}},${{policy.{size}}}}}}}"


class PairBatchingConfig(DynamicBatchingConfig):
    """Micro-batches of pairs of similar lengths, filled up to a budget of padded tokens."""

    train_mb_tokens: Derived[Count] = derived(PAIR_TOKENS.format(size="train_micro_batch_size"))
    """Tokens of a micro-batch in training."""
    logprob_mb_tokens: Derived[Count] = derived(PAIR_TOKENS.format(size="logprob_batch_size"))
    """Tokens of a micro-batch when only log-probabilities are computed."""


class PairPackingConfig(SequencePackingConfig):
    """Several pairs end to end in one row, none of whose answers sees another."""

    train_mb_tokens: Derived[Count] = derived(PAIR_TOKENS.format(size="train_micro_batch_size"))
    """Tokens of a micro-batch in training."""
    logprob_mb_tokens: Derived[Count] = derived(PAIR_TOKENS.format(size="logprob_batch_size"))
    """Tokens of a micro-batch when only log-probabilities are computed."""


class PairPolicyConfig(SFTPolicyConfig):
    """The model that is trained. Sizes of batches count pairs."""

    sequences_per_unit: ClassVar[int] = 2

    train_global_batch_size: int = Field(32, ge=1)
    """Pairs (or rated answers) per optimizer step, over all devices."""
    train_micro_batch_size: Count | None = None
    """Pairs per forward and backward on one device; null: chosen to fit it. Changes memory and speed, never the
    result."""
    logprob_batch_size: Derived[Count] = derived("${policy.train_micro_batch_size}")
    """Pairs per forward when only log-probabilities are computed."""
    disable_dropout: bool = True
    """Turn off the dropout that the model came with (GPT-2's 0.1): a reference has none, and chosen and rejected
    answers are compared. An adapter's is `lora.dropout`."""
    dynamic_batching: PairBatchingConfig = section(PairBatchingConfig)
    sequence_packing: PairPackingConfig = section(PairPackingConfig)


def _our_metric(value: Any) -> Any:
    """Upstream names validation metrics after the dataset, `val:validation-default_loss`, and calls the share of pairs
    that are ranked right `accuracy`."""
    if not isinstance(value, str):
        return value
    value = re.sub(r"^val:validation-[^:]*_(loss|accuracy)$", r"val:val_\1", value)
    return re.sub(r"^(val:(?:val_)?|train:)(accuracy|margin)$", r"\1reward_\2", value)


class DPOCheckpointingConfig(CheckpointingConfig):
    """When checkpoints are written, and which are kept. The newest is always kept."""

    checkpoint_dir: LocalPath = "results/dpo"
    """The run's folder. The same command again goes on from the newest checkpoint in it."""
    metric_name: Annotated[str | None, BeforeValidator(_our_metric)] = "val:val_loss"
    """What the best are chosen by: `val:NAME` or `train:NAME`; null: the newest are kept."""


class DPOConfig(RunConfig):
    """All settings of `hone dpo`."""

    policy: PairPolicyConfig = section(PairPolicyConfig)
    dpo: DPOSection = section(DPOSection)
    data: PreferenceDataConfig = section(PreferenceDataConfig)
    checkpointing: DPOCheckpointingConfig = section(DPOCheckpointingConfig)
    logger: LoggerConfig = section(LoggerConfig)
    cluster: ClusterConfig = section(ClusterConfig)

    @property
    def loop(self) -> DPOSection:
        """How long the run is, when it validates, what it draws with: the section of the command's own name."""
        return self.dpo
