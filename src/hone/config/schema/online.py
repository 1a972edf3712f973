"""What the runs of the online loop share, and what those that learn from rewards do besides: the clipped loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from hone.config.paths import LocalName
from hone.config.schema.base import ConfigModel, Count, CountOrAll, Derived, RunConfig, derived, section
from hone.config.schema.data import PromptDataConfig
from hone.config.schema.environments import EnvConfig
from hone.config.schema.model import GenerationConfig, ModelConfig, OptimizerConfig
from hone.config.schema.run import ClusterConfig, LoggerConfig, OnlineCheckpointingConfig, RewardsConfig


class RewardScalingConfig(ConfigModel):
    """Map rewards linearly from one range to another; what lies outside the range is clipped to it first."""

    enabled: bool = False
    """Scale rewards."""
    source_min: float = 0.0
    """Low end of the rewards as given."""
    source_max: float = 1.0
    """High end of the rewards as given."""
    target_min: float = 0.0
    """Low end of the scaled rewards."""
    target_max: float = 1.0
    """High end of the scaled rewards."""


class RewardShapingConfig(ConfigModel):
    """DAPO's soft penalty on long completions (arXiv 2503.14476, eq. 13)."""

    enabled: bool = False
    """Shape rewards."""
    overlong_buffer_length: int = Field(128, ge=1)
    """The penalty grows over this many tokens before max_response_length."""
    overlong_buffer_penalty: float = Field(1.0, ge=0)
    """The penalty at max_response_length."""
    max_response_length: Derived[Count] = derived("${policy.max_total_sequence_length}")
    """Length at which the penalty is full."""
    stop_properly_penalty_coef: float | None = Field(None, ge=0, le=1)
    """Factor on the positive reward of a completion cut off by its length; null: none."""


class OnlineSection(ConfigModel):
    """What every run of the online loop says about itself: rollouts, how long, and when to validate."""

    num_prompts_per_step: int = Field(32, ge=1)
    """Prompts of each rollout."""
    num_generations_per_prompt: int = Field(16, ge=1)
    """Completions of each prompt: its group."""
    max_rollout_turns: int = Field(1, ge=1)
    """Turns of the model's in one rollout, where there is an environment; then it ends."""
    max_num_epochs: CountOrAll = 1
    """Passes over the prompts; null or -1: as many as max_num_steps takes."""
    max_num_steps: CountOrAll = 1000000
    """Rollouts at most; null or -1: as many as the epochs have."""
    overlong_filtering: bool = False
    """Leave completions that were cut off by their length out of the loss (they are counted)."""
    val_period: int = Field(10, ge=0)
    """Steps between validations; 0: none in between."""
    val_start_at: int = Field(-1, ge=-1)
    """First step at which to validate by the period; -1: from the beginning."""
    val_at_start: bool = False
    """Validate before the first step."""
    val_at_end: bool = False
    """Validate after the last step."""
    max_val_samples: CountOrAll = 256
    """Problems of each validation; null or -1: the whole validation data."""
    val_batch_size: int = Field(256, ge=1)
    """Problems generated at once in validation."""
    val_num_generations_per_prompt: int = Field(1, ge=1)
    """Completions of each problem in validation; the accuracy and the reward are their means."""
    stop_at_validation_metric: str | None = None
    """Stop when this validation metric (such as `accuracy`) reaches the threshold."""
    stop_at_validation_threshold: float | None = None
    """The threshold."""
    seed: int = Field(42, ge=0)
    """Seed of everything that is drawn."""

    trains_on_pairs: ClassVar[bool] = False
    """Whether a prompt's completions give one pair to train on. Sizes of batches then count pairs."""

    @property
    def samples_per_prompt(self) -> int:
        """What a prompt gives to train on: its completions, or one pair of them."""
        return 1 if self.trains_on_pairs else self.num_generations_per_prompt

    @property
    def updates_per_rollout(self) -> int:
        """Passes of the optimizer over each rollout."""
        return 1


class RLSection(OnlineSection):
    """What a run says besides, whose rewards are trained on."""

    reward_scaling: RewardScalingConfig = section(RewardScalingConfig)
    reward_shaping: RewardShapingConfig = section(RewardShapingConfig)
    use_dynamic_sampling: bool = False
    """Leave out groups whose rewards are all equal, and draw further prompts until num_prompts_per_step groups are left
    (DAPO)."""
    batch_multiplier: float = Field(1.0, ge=1)
    """use_dynamic_sampling: prompts of a batch at most, in units of num_prompts_per_step."""
    dynamic_sampling_max_gen_batches: int = Field(10, ge=1)
    """use_dynamic_sampling: batches of a step at most. The step then trains on the groups that there are, which are
    counted; without any the run stops."""


class LossConfig(ConfigModel):
    """The clipped policy-gradient loss and its variants."""

    reference_policy_kl_penalty: float = Field(0.01, ge=0)
    """Factor of the KL divergence from the starting model; 0: the starting model is not kept."""
    reference_policy_kl_type: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of the KL divergence (http://joschu.net/blog/kl-approx.html); in the reward, k1."""
    use_bias_correction_kl: bool | None = None
    """KL in the loss: multiply the estimate by the ratio to the old policy, with its gradient, which makes the gradient
    of k1 and k3 that of KL(policy || reference) (docs/rl.md); null: for k1 and k3, not for k2."""
    kl_input_clamp_value: float | None = Field(20.0, gt=0)
    """Limit of the log-ratio that goes into the estimator; null: none."""
    kl_output_clamp_value: float | None = Field(10.0, gt=0)
    """Limit of what comes out of it, weights included; null: none."""
    use_kl_in_reward: bool = False
    """Subtract the KL divergence from the reward rather than adding it to the loss."""
    ratio_clip_min: float = Field(0.2)
    """The ratio is clipped from below at 1 - this."""
    ratio_clip_max: float = Field(0.2)
    """The ratio is clipped from above at 1 + this."""
    ratio_clip_c: float | None = None
    """Dual clip: limit of ratio × |advantage| for negative advantages, above 1; null: none."""
    token_level_loss: bool = True
    """Every token weighs the same; false: every sequence weighs the same."""
    sequence_level_importance_ratios: bool = False
    """One ratio per sequence, the geometric mean of its tokens' (GSPO)."""
    constant_denominator: float | None = Field(None, gt=0)
    """Divide by sequences × this rather than by the number of tokens (Dr. GRPO); null: off."""
    disable_ppo_ratio: bool = False
    """No ratio: REINFORCE."""
    force_on_policy_ratio: bool = False
    """Take the ratio as exactly 1 (gradient kept), for one update per rollout."""
    use_cispo: bool = False
    """Clip the ratio as a constant factor of the log-probability, and drop no token's gradient (CISPO)."""
    use_sapo: bool = False
    """A soft gate in place of the clip: 4 / tau × sigmoid(tau (ratio - 1)) × advantage (SAPO)."""
    sapo_temperature_pos: float = Field(1.0, gt=0)
    """use_sapo: tau where the advantage is positive."""
    sapo_temperature_neg: float = Field(1.05, gt=0)
    """use_sapo: tau where it is not; larger, so that the gradient of bad tokens fades earlier."""
    entropy_coef: float = Field(0.0, ge=0)
    """Factor of the mean entropy of the policy's distributions (in nats per token), which is rewarded; 0: off."""
    top_entropy_quantile: float = Field(1.0, gt=0, le=1)
    """Train on this part of a global batch's tokens, those of the highest entropy; 1: on all."""
    use_on_policy_kl_approximation: bool = False
    """Weight the KL estimate in the loss by the ratio between learner and generator."""
    use_importance_sampling_correction: bool = False
    """Weight by the ratio between the learner's and the generator's probabilities at sampling time."""
    truncated_importance_sampling_type: Literal["tis", "icepop", "seq-mask-tis"] | None = None
    """How these weights are limited: `tis` cuts them, `icepop` leaves out what lies outside, `seq-mask-tis` leaves out
    sequences whose geometric mean does; null with a ratio: `tis`."""
    truncated_importance_sampling_ratio: float | None = Field(None, gt=0)
    """Upper limit of these weights; null: none."""
    truncated_importance_sampling_ratio_min: float | None = Field(None, ge=0)
    """Lower limit of these weights; null: none."""
    truncated_importance_sampling_level: Literal["token", "sequence"] | None = None
    """Whether a weight is a token's own or the product over its sequence; null: as sequence_level_importance_ratios."""
    positive_example_nll_weight: float = Field(0.0, ge=0)
    """Factor of an added cross-entropy on right answers, the mean over their tokens (VAPO eq. 10)."""

    @property
    def corrects_kl(self) -> bool:
        """Whether the ratio's gradient is in the KL term."""
        if self.use_bias_correction_kl is None:
            return self.reference_policy_kl_type != "k2"
        return self.use_bias_correction_kl


def _adamw() -> dict[str, Any]:
    return {"lr": 5.0e-6, "weight_decay": 0.01, "betas": [0.9, 0.999], "eps": 1.0e-8}


class OnlineOptimizerConfig(OptimizerConfig):
    """An optimizer class and its arguments."""

    kwargs: dict[str, Any] = Field(default_factory=_adamw)
    """Arguments of the class: lr, weight_decay, betas, eps …"""


class OnlinePolicyConfig(ModelConfig):
    """The model that is trained, and how it samples."""

    model_name: LocalName = "hone/tiny-sft"
    """Hugging Face name or folder of the model; or an embedded one: `hone/tiny`, `hone/tiny-sft`."""
    train_global_batch_size: int = Field(512, ge=1)
    """Completions per optimizer step, over all devices; divides prompts × generations of a rollout."""
    max_total_sequence_length: int = Field(512, ge=2)
    """Longest sequence, prompt and completion together, in tokens."""
    generation_batch_size: int = Field(32, ge=1)
    """Completions that the built-in generator decodes at once. Changes memory and speed only."""
    optimizer: OnlineOptimizerConfig = section(OnlineOptimizerConfig)
    generation: GenerationConfig = section(GenerationConfig)


class OnlineConfig(RunConfig):
    """The settings that every run of the online loop has."""

    policy: OnlinePolicyConfig = section(OnlinePolicyConfig)
    rewards: RewardsConfig = section(RewardsConfig)
    data: PromptDataConfig = section(PromptDataConfig)
    checkpointing: OnlineCheckpointingConfig = section(OnlineCheckpointingConfig)
    logger: LoggerConfig = section(LoggerConfig)
    cluster: ClusterConfig = section(ClusterConfig)

    @property
    def loop(self) -> OnlineSection:
        """How long the run is, when it validates, what it draws with: the command's own section."""
        raise NotImplementedError

    @property
    def uses_reference_model(self) -> bool:
        """Whether the model that the run began with is kept beside the policy."""
        return False

    def problems(self) -> Iterator[str]:
        """What is wrong with the algorithm's own settings, as sentences that name the keys and the fix."""
        yield from ()


class RLConfig(OnlineConfig):
    """The settings of every run that learns from rewards."""

    env: EnvConfig = section(EnvConfig)

    @property
    def loop(self) -> RLSection:
        """How long the run is, when it validates, what it draws with: the command's own section."""
        raise NotImplementedError


class PolicyGradientConfig(RLConfig):
    """The settings of every run that learns from advantages, with the clipped policy-gradient loss."""

    loss_fn: LossConfig = section(LossConfig)

    @property
    def uses_reference_model(self) -> bool:
        """Whether the model that the run began with is kept beside the policy."""
        return self.loss_fn.reference_policy_kl_penalty > 0
