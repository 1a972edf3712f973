"""The configuration of `hone ppo`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from hone.config.paths import LocalName, LocalPath
from hone.config.schema.base import ConfigModel, Count, Derived, Precision, derived, section
from hone.config.schema.model import (
    DynamicBatchingConfig,
    ModelConfig,
    OptimizerConfig,
    SequencePackingConfig,
)
from hone.config.schema.online import PolicyGradientConfig, RLSection
from hone.config.schema.run import OnlineCheckpointingConfig

Share = Annotated[float, Field(ge=0, le=1)]


class PPOEstimatorConfig(ConfigModel):
    """What advantages are made of. Only `gae` has a value model."""

    name: Literal["gae", "grpo", "rloo", "reinforce_plus_plus"] = "gae"
    """`gae`: rewards and the value model. The others compare a prompt's completions, as in `hone grpo`."""
    gae_gamma: Share = 1.0
    """gae: discount of later rewards."""
    gae_lambda: Share = 0.95
    """gae: weight of later surprises; 1: returns minus values, 0: one step ahead."""
    gae_lambda_value: Derived[Share] = derived("${.gae_lambda}")
    """gae: lambda of what the value model learns."""
    gae_lambda_policy: Derived[Share] = derived("${.gae_lambda}")
    """gae: lambda of what the policy learns from."""
    length_adaptive_alpha: float = Field(0.0, ge=0)
    """gae: above 0, the policy's lambda of a completion of l tokens is 1 - 1 / (this x l) (VAPO has 0.05); 0: off."""
    normalize_advantages: bool = True
    """gae: bring the advantages of all tokens of a rollout to mean 0 and standard deviation 1."""
    normalize_rewards: bool = True
    """grpo: divide by the group's standard deviation."""
    use_leave_one_out_baseline: bool = True
    """grpo: the baseline of a completion is the mean of the others of its group; false: the group's mean."""
    minus_baseline: bool = True
    """reinforce_plus_plus: take the group's mean off first (REINFORCE++-baseline)."""


class PPOSection(RLSection):
    """Proximal policy optimization with a value model: rollouts, advantages, epochs, validation."""

    ppo_epochs: int = Field(4, ge=1)
    """Passes of both optimizers over each rollout, in minibatches of their train_global_batch_size."""
    policy_training_start_step: int = Field(0, ge=0)
    """Steps in which the value model alone is trained, before the policy is too."""
    whiten_rewards: bool = False
    """Divide the rewards of tokens by their standard deviation over the rollout. Their mean is not taken off."""
    adv_estimator: PPOEstimatorConfig = section(PPOEstimatorConfig)

    @property
    def updates_per_rollout(self) -> int:
        """Passes of the optimizer over each rollout."""
        return self.ppo_epochs


class ValueLossConfig(ConfigModel):
    """How the value model learns."""

    scale: float = Field(0.5, gt=0)
    """Factor of half the squared error."""
    cliprange: float | None = Field(0.2, gt=0)
    """A value may come nearer to its target by this much, from what it was before the rollout's first update, until
    there is no gradient; null: no limit."""


class ValueTokenizerConfig(ConfigModel):
    """The value model's tokenizer: it reads the policy's tokens, so its vocabulary is the policy's."""

    name: Derived[LocalName] = derived("${policy.tokenizer.name}")
    """Tokenizer name or folder, compared with the policy's when the run starts."""


class ValueBatchingConfig(DynamicBatchingConfig):
    """Micro-batches of similar lengths, filled up to a budget of padded tokens."""

    enabled: Derived[bool] = derived("${policy.dynamic_batching.enabled}")
    """Fill micro-batches by tokens rather than by count of sequences."""
    train_mb_tokens: Derived[Count] = derived(
        "${mul:${value.max_total_sequence_length},${value.train_micro_batch_size}}"
    )
    """Tokens of a micro-batch in training."""
    logprob_mb_tokens: Derived[Count] = derived(
        "${mul:${value.max_total_sequence_length},${value.logprob_batch_size}}"
    )
    """Tokens of a micro-batch when only values are computed."""


class ValuePackingConfig(SequencePackingConfig):
    """Several sequences end to end in one row, none of which sees another."""

    enabled: Derived[bool] = derived("${policy.sequence_packing.enabled}")
    """Pack sequences, up to the budget of tokens. Without packing, completions of one prompt share it."""
    train_mb_tokens: Derived[Count] = derived(
        "${mul:${value.max_total_sequence_length},${value.train_micro_batch_size}}"
    )
    """Tokens of a micro-batch in training."""
    logprob_mb_tokens: Derived[Count] = derived(
        "${mul:${value.max_total_sequence_length},${value.logprob_batch_size}}"
    )
    """Tokens of a micro-batch when only values are computed."""


def _adamw() -> dict[str, Any]:
    return {"lr": 1.0e-5, "weight_decay": 0.01, "betas": [0.9, 0.999], "eps": 1.0e-8}


class ValueOptimizerConfig(OptimizerConfig):
    """An optimizer class and its arguments."""

    kwargs: dict[str, Any] = Field(default_factory=_adamw)
    """Arguments of the class: lr, weight_decay, betas, eps …"""


class ValueConfig(ModelConfig):
    """The value model: what a state is worth. What is not given here is the policy's."""

    has_scalar_head: ClassVar[bool] = True
    part: ClassVar[str] = "value"

    model_name: Derived[LocalName] = derived("${policy.model_name}")
    """Hugging Face name or folder: of a language model, which gets a new head, or of a reward or value model
    (`AutoModelForSequenceClassification` with num_labels=1), whose head it keeps."""
    trust_remote_code: Derived[bool] = derived("${policy.trust_remote_code}")
    """Run the Python code that the model's folder brings, where transformers has none for it."""
    tokenizer: ValueTokenizerConfig = section(ValueTokenizerConfig)  # type: ignore[assignment]
    train_global_batch_size: Derived[Count] = derived("${policy.train_global_batch_size}")
    """Completions per optimizer step, over all devices; divides prompts × generations of a rollout."""
    train_micro_batch_size: Derived[Count] = derived("${policy.train_micro_batch_size}")
    """Sequences per forward and backward on one device. Changes memory and speed, never the result."""
    logprob_batch_size: Derived[Count] = derived("${value.train_micro_batch_size}")
    """Sequences per forward when only values are computed."""
    max_total_sequence_length: Derived[Count] = derived("${policy.max_total_sequence_length}")
    """Longest sequence in tokens: the policy's."""
    precision: Derived[Precision] = derived("${policy.precision}")
    """Number format of the forward and backward. The optimizer's copy of the weights stays float32."""
    optimizer: ValueOptimizerConfig = section(ValueOptimizerConfig)
    dynamic_batching: ValueBatchingConfig = section(ValueBatchingConfig)
    sequence_packing: ValuePackingConfig = section(ValuePackingConfig)
    activation_checkpointing: Derived[bool] = derived("${policy.activation_checkpointing}")
    """Recompute activations in the backward: less memory, about a third slower. Same result."""
    tensor_parallel_size: Derived[Count] = derived("${policy.tensor_parallel_size}")
    """Devices that share each layer: as for the policy, beside which it lies."""
    context_parallel_size: Derived[Count] = derived("${policy.context_parallel_size}")
    """Devices that share each sequence: as for the policy."""
    pipeline_parallel_size: Derived[Count] = derived("${policy.pipeline_parallel_size}")
    """Devices that each hold some of the layers: as for the policy."""
    dp_replicate_size: Derived[Count] = derived("${policy.dp_replicate_size}")
    """Groups of data-parallel devices that each hold a whole copy: as for the policy."""
    sequence_parallel: Derived[bool] = derived("${policy.sequence_parallel}")
    """With tensor parallelism: also share the parts between the layers along the sequence."""
    cpu_offload: Derived[bool] = derived("${policy.cpu_offload}")
    """Keep weights, gradients and optimizer state in host memory between uses: as for the policy."""


class PPOCheckpointingConfig(OnlineCheckpointingConfig):
    """When checkpoints are written, and which are kept. The newest is always kept."""

    checkpoint_dir: LocalPath = "results/ppo"
    """The run's folder. The same command again goes on from the newest checkpoint in it."""


class PPOConfig(PolicyGradientConfig):
    """All settings of `hone ppo`."""

    ppo: PPOSection = section(PPOSection)
    value: ValueConfig = section(ValueConfig)
    value_loss_fn: ValueLossConfig = section(ValueLossConfig)
    checkpointing: PPOCheckpointingConfig = section(PPOCheckpointingConfig)

    @property
    def loop(self) -> PPOSection:
        """How long the run is, when it validates, what it draws with: the section of the command's own name."""
        return self.ppo

    @property
    def critic(self) -> ValueConfig | None:
        """The settings of the value model, if the run's advantages ask for one."""
        return self.value if self.ppo.adv_estimator.name == "gae" else None
