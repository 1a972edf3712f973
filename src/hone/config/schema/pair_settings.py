"""What runs on pairs of answers share: batch sizes that count pairs."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from hone.config.schema.base import Count, Derived, derived, section
from hone.config.schema.model import DynamicBatchingConfig, SequencePackingConfig
from hone.config.schema.run import CheckpointingConfig
from hone.config.schema.supervised import SupervisedPolicyConfig

PAIR_TOKENS = "${{mul:2,${{mul:${{policy.max_total_sequence_length}},${{policy.{size}}}}}}}"


class PairBatchingConfig(DynamicBatchingConfig):
    """Micro-batches of pairs of similar lengths, filled up to a budget of padded tokens."""

    train_mb_tokens: Derived[Count] = derived(PAIR_TOKENS.format(size="train_micro_batch_size"))
    """Tokens of a micro-batch in training."""
    logprob_mb_tokens: Derived[Count] = derived(PAIR_TOKENS.format(size="logprob_batch_size"))
    """Tokens of a micro-batch when only log-probabilities are computed."""


class PairPackingConfig(SequencePackingConfig):
    """Several pairs packed into one row; no answer attends to another."""

    train_mb_tokens: Derived[Count] = derived(PAIR_TOKENS.format(size="train_micro_batch_size"))
    """Tokens of a micro-batch in training."""
    logprob_mb_tokens: Derived[Count] = derived(PAIR_TOKENS.format(size="logprob_batch_size"))
    """Tokens of a micro-batch when only log-probabilities are computed."""


class PairPolicyConfig(SupervisedPolicyConfig):
    """The model that is trained. Batch sizes count pairs."""

    sequences_per_unit: ClassVar[int] = 2

    train_global_batch_size: int = Field(32, ge=1)
    """Pairs (or rated answers) per optimizer step, over all devices."""
    train_micro_batch_size: Count | None = None
    """Pairs per forward and backward pass on one device; null: as many as fit. Changes memory and speed, never the
    result."""
    logprob_batch_size: Derived[Count] = derived("${policy.train_micro_batch_size}")
    """Pairs per forward pass when only log-probabilities are computed."""
    disable_dropout: bool = True
    """Turn off the model's own dropout (0.1 in GPT-2): a reference model has none, and chosen and rejected answers are
    compared. Adapters have `lora.dropout`."""
    dynamic_batching: PairBatchingConfig = section(PairBatchingConfig)
    sequence_packing: PairPackingConfig = section(PairPackingConfig)


class PreferenceCheckpointingConfig(CheckpointingConfig):
    """When checkpoints are written, and which are kept. The newest is always kept."""

    metric_name: str | None = "val:val_loss"
    """Metric that ranks checkpoints: `val:NAME` or `train:NAME`; null: the newest are kept."""
