"""The configuration of `hone ppo`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from hone.config.checks.conditions import ConditionalSettings, lora_conditions, only_for, read_if
from hone.config.checks.models import model_problems, not_a_multiple
from hone.config.dependent_defaults.settings import Adjustment, Settings
from hone.config.paths import LocalName
from hone.config.schema.base import ConfigModel, Count, Derived, Precision, derived, section
from hone.config.schema.model import (
    DynamicBatchingConfig,
    ModelConfig,
    OptimizerConfig,
    SequencePackingConfig,
    adamw,
)
from hone.config.schema.online import PolicyGradientConfig, RLSection

Share = Annotated[float, Field(ge=0, le=1)]
SHARED = """
tensor_parallel_size context_parallel_size pipeline_parallel_size dp_replicate_size
sequence_parallel cpu_offload max_total_sequence_length
""".split()
"""Settings in which the policy and the value model agree: they read the same sequences on the same devices."""


class PPOEstimatorConfig(ConfigModel):
    """The advantage estimator. Only `gae` needs a value model."""

    name: Literal["gae", "grpo", "rloo", "reinforce_plus_plus"] = "gae"
    """`gae`: generalised advantage estimation, with the value model. The others are those of `hone grpo`."""
    gae_gamma: Share = 1.0
    """gae: discount factor."""
    gae_lambda: Share = 0.95
    """gae: lambda; 1: returns minus values (Monte Carlo), 0: one-step temporal differences."""
    gae_lambda_value: Derived[Share] = derived("${.gae_lambda}")
    """gae: lambda of the value model's targets."""
    gae_lambda_policy: Derived[Share] = derived("${.gae_lambda}")
    """gae: lambda of the policy's advantages."""
    length_adaptive_alpha: float = Field(0.0, ge=0)
    """gae: if alpha is above 0, the policy's lambda for a completion of l tokens is 1 - 1 / (alpha l) (VAPO: 0.05);
    0: off."""
    normalize_advantages: bool = True
    """gae: normalise the advantages of all tokens of a rollout to mean 0 and standard deviation 1."""
    normalize_rewards: bool = True
    """grpo: divide by the group's standard deviation."""
    use_leave_one_out_baseline: bool = True
    """grpo: a completion's baseline is the mean of the group's other rewards; false: the group's mean."""
    minus_baseline: bool = True
    """reinforce_plus_plus: first subtract the group's mean (REINFORCE++-baseline)."""


class PPOSection(RLSection):
    """Proximal policy optimization with a value model: rollouts, advantages, epochs, validations."""

    passes_key: ClassVar[str | None] = "ppo_epochs"

    ppo_epochs: int = Field(4, ge=1)
    """Passes of both optimizers over each rollout, in minibatches of train_global_batch_size completions."""
    policy_training_start_step: int = Field(0, ge=0)
    """Number of first steps that train the value model alone."""
    whiten_rewards: bool = False
    """Divide token rewards by their standard deviation over the rollout; the mean is kept."""
    adv_estimator: PPOEstimatorConfig = section(PPOEstimatorConfig)


class ValueLossConfig(ConfigModel):
    """The value model's loss."""

    scale: float = Field(0.5, gt=0)
    """Weight of half the squared error."""
    cliprange: float | None = Field(0.2, gt=0)
    """Value clipping: how far a value may move from its value before the rollout's first update; null: no limit."""


class ValueTokenizerConfig(ConfigModel):
    """The value model's tokenizer. It reads the policy's tokens, so both have the same vocabulary."""

    name: Derived[LocalName] = derived("${policy.tokenizer.name}")
    """Tokenizer name or folder, compared with the policy's when the run starts."""


class ValueBatchingConfig(DynamicBatchingConfig):
    """Micro-batches of similar lengths, filled up to a budget of padded tokens."""

    enabled: Derived[bool] = derived("${policy.dynamic_batching.enabled}")
    """Fill micro-batches by number of tokens rather than of sequences."""
    train_mb_tokens: Derived[Count] = derived(
        "${mul:${value.max_total_sequence_length},${value.train_micro_batch_size}}"
    )
    """Tokens of a micro-batch in training."""
    logprob_mb_tokens: Derived[Count] = derived(
        "${mul:${value.max_total_sequence_length},${value.logprob_batch_size}}"
    )
    """Tokens of a micro-batch when only values are computed."""


class ValuePackingConfig(SequencePackingConfig):
    """Several sequences packed into one row; no sequence attends to another."""

    enabled: Derived[bool] = derived("${policy.sequence_packing.enabled}")
    """Pack sequences up to the budget of tokens. Without packing, the completions of a prompt share its
    computation."""
    train_mb_tokens: Derived[Count] = derived(
        "${mul:${value.max_total_sequence_length},${value.train_micro_batch_size}}"
    )
    """Tokens of a micro-batch in training."""
    logprob_mb_tokens: Derived[Count] = derived(
        "${mul:${value.max_total_sequence_length},${value.logprob_batch_size}}"
    )
    """Tokens of a micro-batch when only values are computed."""


class ValueOptimizerConfig(OptimizerConfig):
    """An optimizer class and its arguments."""

    kwargs: dict[str, Any] = adamw(lr=1.0e-5)
    """Arguments of the class: lr, weight_decay, betas, eps …"""


class ValueConfig(ModelConfig):
    """The value model. Settings that are not given are the policy's."""

    has_scalar_head: ClassVar[bool] = True
    part: ClassVar[str] = "value"

    model_name: Derived[LocalName] = derived("${policy.model_name}")
    """Hugging Face name or folder: of a language model, which gets a new head, or of a reward or value model
    (`AutoModelForSequenceClassification` with num_labels=1), whose head it keeps."""
    trust_remote_code: Derived[bool] = derived("${policy.trust_remote_code}")
    """Run the Python code in the model's folder, where transformers has none for it."""
    tokenizer: ValueTokenizerConfig = section(ValueTokenizerConfig)  # type: ignore[assignment]
    train_global_batch_size: Derived[Count] = derived("${policy.train_global_batch_size}")
    """Completions per optimizer step, over all devices; divides prompts × generations of a rollout."""
    train_micro_batch_size: Derived[Count] = derived("${policy.train_micro_batch_size}")
    """Sequences per forward and backward pass on one device. Changes memory and speed, never the result."""
    logprob_batch_size: Derived[Count] = derived("${value.train_micro_batch_size}")
    """Sequences per forward pass when only values are computed."""
    max_total_sequence_length: Derived[Count] = derived("${policy.max_total_sequence_length}")
    """Longest sequence in tokens: the policy's."""
    precision: Derived[Precision] = derived("${policy.precision}")
    """Number format of forward and backward passes. The optimizer's copy of the weights is always float32."""
    optimizer: ValueOptimizerConfig = section(ValueOptimizerConfig)
    dynamic_batching: ValueBatchingConfig = section(ValueBatchingConfig)
    sequence_packing: ValuePackingConfig = section(ValuePackingConfig)
    activation_checkpointing: Derived[bool] = derived("${policy.activation_checkpointing}")
    """Recompute activations in the backward pass: less memory, about a third slower, same result."""
    tensor_parallel_size: Derived[Count] = derived("${policy.tensor_parallel_size}")
    """Devices that share each layer: as for the policy, with which it shares devices."""
    context_parallel_size: Derived[Count] = derived("${policy.context_parallel_size}")
    """Devices that share each sequence: as for the policy."""
    pipeline_parallel_size: Derived[Count] = derived("${policy.pipeline_parallel_size}")
    """Devices that each hold some of the layers: as for the policy."""
    dp_replicate_size: Derived[Count] = derived("${policy.dp_replicate_size}")
    """Data-parallel replicas: as for the policy."""
    sequence_parallel: Derived[bool] = derived("${policy.sequence_parallel}")
    """With tensor parallelism: also shard the activations between the layers along the sequence."""
    cpu_offload: Derived[bool] = derived("${policy.cpu_offload}")
    """Keep weights, gradients and optimizer state in host memory between uses: as for the policy."""


class PPOConfig(PolicyGradientConfig):
    """All settings of `hone ppo`."""

    conditional: ClassVar[tuple[ConditionalSettings, ...]] = (
        *lora_conditions("value"),
        only_for("grpo", "ppo.adv_estimator: normalize_rewards use_leave_one_out_baseline"),
        only_for(
            "gae",
            "ppo.adv_estimator: gae_gamma gae_lambda gae_lambda_value gae_lambda_policy length_adaptive_alpha "
            "normalize_advantages",
        ),
        read_if(
            lambda s: s.config.critic is not None,
            "value.* value_loss_fn.*",
            "only the estimator gae has a value model",
        ),
    )

    ppo: PPOSection = section(PPOSection)
    value: ValueConfig = section(ValueConfig)
    value_loss_fn: ValueLossConfig = section(ValueLossConfig)

    @property
    def critic(self) -> ValueConfig | None:
        """Settings of the value model, if the advantage estimator needs one."""
        return self.value if self.ppo.adv_estimator.name == "gae" else None

    def problems(self) -> Iterator[str]:
        """What the value model has to share with the policy, and settings that do nothing without it."""
        settings, estimator, value = self.ppo, self.ppo.adv_estimator.name, self.critic
        start, steps = settings.policy_training_start_step, settings.max_num_steps
        if value is None:
            if start:
                yield (
                    f"ppo.policy_training_start_step={start} first trains a value model, but "
                    f"ppo.adv_estimator.name={estimator} has none: set it to 0, or the estimator to gae"
                )
            if settings.whiten_rewards:
                yield f"ppo.whiten_rewards=true does nothing for ppo.adv_estimator.name={estimator}: set it to false"
            return
        rollout, size = (
            settings.num_prompts_per_step * settings.samples_per_prompt,
            value.train_global_batch_size,
        )
        if rollout % size:
            yield not_a_multiple(
                "the completions of a rollout", rollout, "value.train_global_batch_size", size
            )
        if steps is not None and start >= steps:
            yield (
                f"ppo.policy_training_start_step={start} leaves no step of ppo.max_num_steps={steps} in which the "
                "policy is trained: lower it"
            )
        for key in SHARED:
            mine, theirs = getattr(value, key), getattr(self.policy, key)
            if mine is not None and mine != theirs and not (theirs is None and mine in (1, False)):
                yield (
                    f"value.{key}={mine} and policy.{key}={theirs}: both models share devices and sequences; "
                    f"leave value.{key} out"
                )
        yield from model_problems(value)

    def adjustments(self, settings: Settings) -> Iterator[Adjustment]:
        """The policy follows what was given for the value model; the run is long enough to train the policy."""
        if self.critic is None:
            return
        for key in SHARED:
            mine = f"value.{key}"
            if (
                settings.given(mine)
                and settings[mine] is not None
                and settings[mine] != settings[f"policy.{key}"]
            ):
                yield Adjustment(f"policy.{key}", settings[mine], mine)
        start, steps = "ppo.policy_training_start_step", "ppo.max_num_steps"
        if settings[steps] is not None and settings[start] >= settings[steps]:
            yield Adjustment(steps, settings[start] + settings[steps], start)
