"""Settings of every run of the online loop; of those that learn from rewards; and of the clipped policy-gradient
loss."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from hone.config.paths import LocalName
from hone.config.schema.base import ConfigModel, Count, CountOrAll, Derived, derived, section
from hone.config.schema.data import PromptDataConfig
from hone.config.schema.environments import EnvConfig
from hone.config.schema.model import GenerationConfig, ModelConfig
from hone.config.schema.run import OnlineCheckpointingConfig, RewardsConfig
from hone.config.schema.training import AlgorithmSection, TrainingConfig


class RewardScalingConfig(ConfigModel):
    """Clip rewards to one range, then map them linearly to another."""

    enabled: bool = False
    """Scale rewards."""
    source_min: float = 0.0
    """Low end of the source range."""
    source_max: float = 1.0
    """High end of the source range."""
    target_min: float = 0.0
    """Low end of the target range."""
    target_max: float = 1.0
    """High end of the target range."""


class RewardShapingConfig(ConfigModel):
    """DAPO's soft overlong penalty (arXiv 2503.14476, eq. 13)."""

    enabled: bool = False
    """Shape rewards."""
    overlong_buffer_length: int = Field(128, ge=1)
    """The penalty grows over this many tokens before max_response_length."""
    overlong_buffer_penalty: float = Field(1.0, ge=0)
    """The penalty at max_response_length."""
    max_response_length: Derived[Count] = derived("${policy.max_total_sequence_length}")
    """Completion length at which the penalty is full."""
    stop_properly_penalty_coef: float | None = Field(None, ge=0, le=1)
    """Factor of the positive reward of a truncated completion; null: none."""


class OnlineSection(AlgorithmSection):
    """Rollouts, length of the run, validations."""

    num_prompts_per_step: int = Field(32, ge=1)
    """Prompts of each rollout."""
    num_generations_per_prompt: int = Field(16, ge=1)
    """Completions of each prompt, its group."""
    max_rollout_turns: int = Field(1, ge=1)
    """Maximum number of model turns in a rollout with an environment."""
    max_num_steps: CountOrAll = 1000000
    """Maximum number of rollouts; null or -1: no limit but max_num_epochs."""
    overlong_filtering: bool = False
    """Leave truncated completions out of the loss. They are counted."""
    val_start_at: int = Field(-1, ge=-1)
    """First step at which val_period applies; -1: from the beginning."""
    max_val_samples: CountOrAll = 256
    """Problems of each validation; null or -1: the whole validation data."""
    val_batch_size: int = Field(256, ge=1)
    """Problems generated at once in validation."""
    val_num_generations_per_prompt: int = Field(1, ge=1)
    """Completions of each problem in validation; accuracy and reward are averaged over them."""
    stop_at_validation_metric: str | None = None
    """Stop the run when this validation metric, such as `accuracy`, reaches the threshold."""
    stop_at_validation_threshold: float | None = None
    """The threshold for stop_at_validation_metric."""

    trains_on_pairs: ClassVar[bool] = False
    """Whether each prompt gives one pair of completions to train on. Batch sizes then count pairs."""
    passes_key: ClassVar[str | None] = None
    """The setting that holds the number of passes over each rollout; None: there is one pass."""

    @property
    def samples_per_prompt(self) -> int:
        """Units to train on that each prompt gives: its completions, or one pair of them."""
        return 1 if self.trains_on_pairs else self.num_generations_per_prompt

    @property
    def updates_per_rollout(self) -> int:
        """Passes of the optimizer over each rollout."""
        return getattr(self, self.passes_key) if self.passes_key is not None else 1


class RLSection(OnlineSection):
    """Rollouts with rewards, length of the run, validations."""

    reward_scaling: RewardScalingConfig = section(RewardScalingConfig)
    reward_shaping: RewardShapingConfig = section(RewardShapingConfig)
    async_rollouts: Literal["lookahead", "stream"] | None = None
    """`lookahead`: while a step trains, the rollouts of the next one are sampled, by the weights before it; a run can
    be repeated, and goes on to the bit after a kill. `stream`: prompts are sampled all the time, running completions go
    on with new weights, and a step trains on the groups that are finished; for rollouts of unequal length. Both need
    generators in processes of their own. null: sampling and training take turns."""
    max_staleness: int = Field(1, ge=0)
    """async_rollouts=stream: how many steps older than the weights that are trained those may be that sampled a token,
    at least 1."""
    extra_prompts_in_flight: int = Field(0, ge=0)
    """async_rollouts=stream: prompts that are sampled beyond those that max_staleness admits. A group that would become
    older than that is aborted and dropped. 0: the learner waits for slow groups, and none is dropped."""
    use_dynamic_sampling: bool = False
    """DAPO's dynamic sampling: drop groups whose rewards are all equal, and sample further prompts until
    num_prompts_per_step groups remain."""
    batch_multiplier: float = Field(1.0, ge=1)
    """use_dynamic_sampling: maximum number of prompts sampled at once, in units of num_prompts_per_step."""
    dynamic_sampling_max_gen_batches: int = Field(10, ge=1)
    """use_dynamic_sampling: maximum number of generation batches of a step. After them the step trains on the groups
    that remain (their number is a metric); if none remains, the run stops."""


class LossConfig(ConfigModel):
    """The clipped policy-gradient loss and its variants."""

    reference_policy_kl_penalty: float = Field(0.01, ge=0)
    """Weight of the KL divergence from the reference model (the initial policy); 0: there is no reference model."""
    reference_policy_kl_type: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of the KL divergence (http://joschu.net/blog/kl-approx.html); with use_kl_in_reward, k1."""
    use_bias_correction_kl: bool | None = None
    """KL in the loss: multiply the estimate by the importance ratio, through which gradients flow. The gradient of k1
    and k3 is then that of KL(policy || reference) (docs/rl.md). null: true for k1 and k3, false for k2."""
    kl_input_clamp_value: float | None = Field(20.0, gt=0)
    """Clamp of the log-ratio before the estimator; null: none."""
    kl_output_clamp_value: float | None = Field(10.0, gt=0)
    """Clamp of the weighted estimate; null: none."""
    use_kl_in_reward: bool = False
    """Subtract the KL divergence from the reward instead of adding it to the loss."""
    ratio_clip_min: float = Field(0.2)
    """The importance ratio is clipped from below at 1 - ratio_clip_min."""
    ratio_clip_max: float = Field(0.2)
    """The importance ratio is clipped from above at 1 + ratio_clip_max."""
    ratio_clip_c: float | None = None
    """Dual clip: upper bound of the ratio for negative advantages, above 1; null: none."""
    token_level_loss: bool = True
    """Give every token the same weight in the loss; false: every sequence."""
    sequence_level_importance_ratios: bool = False
    """GSPO: one ratio per sequence, the geometric mean of its tokens' ratios."""
    constant_denominator: float | None = Field(None, gt=0)
    """Dr. GRPO: divide the loss by (sequences × this number), not by the number of tokens; null: off."""
    disable_ppo_ratio: bool = False
    """REINFORCE: no importance ratio."""
    force_on_policy_ratio: bool = False
    """Set the ratio to exactly 1 and keep its gradient; needs one update per rollout."""
    use_cispo: bool = False
    """CISPO: the clipped ratio is a constant weight of the log-probability, so every token keeps its gradient."""
    use_sapo: bool = False
    """SAPO: a soft gate in place of the clip, 4 / tau × sigmoid(tau (ratio - 1)) × advantage."""
    sapo_temperature_pos: float = Field(1.0, gt=0)
    """use_sapo: tau for positive advantages."""
    sapo_temperature_neg: float = Field(1.05, gt=0)
    """use_sapo: tau for the other advantages; larger, so that the gradient of bad tokens fades earlier."""
    entropy_coef: float = Field(0.0, ge=0)
    """Weight of the entropy bonus, the policy's mean entropy in nats per token; 0: off."""
    top_entropy_quantile: float = Field(1.0, gt=0, le=1)
    """Train on this fraction of a global batch's tokens, those of highest entropy; 1: on all."""
    use_on_policy_kl_approximation: bool = False
    """Weight the KL estimate in the loss by the ratio of the learner's to the generator's probability."""
    use_importance_sampling_correction: bool = False
    """Weight the loss by the ratio of the learner's to the generator's probability at sampling time."""
    truncated_importance_sampling_type: Literal["tis", "icepop", "seq-mask-tis"] | None = None
    """How these weights are limited: `tis` truncates them, `icepop` masks tokens outside the limits, `seq-mask-tis`
    masks sequences whose geometric mean is outside; null: `tis`, if a ratio is set."""
    truncated_importance_sampling_ratio: float | None = Field(None, gt=0)
    """Upper limit of these weights; null: none."""
    truncated_importance_sampling_ratio_min: float | None = Field(None, ge=0)
    """Lower limit of these weights; null: none."""
    truncated_importance_sampling_level: Literal["token", "sequence"] | None = None
    """`token`: each token has its own weight. `sequence`: the product over the sequence. null: as
    sequence_level_importance_ratios."""
    positive_example_nll_weight: float = Field(0.0, ge=0)
    """Weight of an added cross-entropy on correct completions, the mean over their tokens (VAPO, eq. 10)."""

    @property
    def corrects_kl(self) -> bool:
        """Whether the importance ratio, with its gradient, multiplies the KL term."""
        if self.use_bias_correction_kl is None:
            return self.reference_policy_kl_type != "k2"
        return self.use_bias_correction_kl


class OnlinePolicyConfig(ModelConfig):
    """The model that is trained, and how it samples."""

    model_name: LocalName = "hone/tiny-sft"
    """Hugging Face name or folder of the model; or an embedded one: `hone/tiny`, `hone/tiny-sft`."""
    train_global_batch_size: int = Field(512, ge=1)
    """Completions per optimizer step, over all devices; divides prompts × generations of a rollout."""
    max_total_sequence_length: int = Field(512, ge=2)
    """Longest sequence, prompt and completion together, in tokens."""
    generation_batch_size: int = Field(32, ge=1)
    """Completions that the built-in generator decodes at once. Changes memory and speed, never the result."""
    generation: GenerationConfig = section(GenerationConfig)


class OnlineConfig(TrainingConfig):
    """Settings of a command that samples completions."""

    policy: OnlinePolicyConfig = section(OnlinePolicyConfig)
    rewards: RewardsConfig = section(RewardsConfig)
    data: PromptDataConfig = section(PromptDataConfig)
    checkpointing: OnlineCheckpointingConfig = section(OnlineCheckpointingConfig)

    @property
    def algorithm(self) -> OnlineSection:
        """The algorithm's own section."""
        own: OnlineSection = super().algorithm
        return own

    @property
    def plan_lines(self) -> list[str]:
        """Further lines of `hone plan` about a step."""
        return []

    @property
    def streams_rollouts(self) -> bool:
        """Whether rollouts are sampled one by one, and do not wait for each other."""
        return False

    @property
    def logits_temperature(self) -> float:
        """Divides the logits before log-probabilities are taken: that of sampling."""
        return self.policy.generation.temperature


class RLConfig(OnlineConfig):
    """Settings of a command that learns from rewards."""

    env: EnvConfig = section(EnvConfig)

    @property
    def algorithm(self) -> RLSection:
        """The algorithm's own section."""
        own = super().algorithm
        assert isinstance(own, RLSection)
        return own

    @property
    def streams_rollouts(self) -> bool:
        """Whether rollouts are sampled one by one, and do not wait for each other."""
        return self.algorithm.async_rollouts == "stream"


class PolicyGradientConfig(RLConfig):
    """Settings of a command that learns from advantages, with the clipped policy-gradient loss."""

    loss_fn: LossConfig = section(LossConfig)

    @property
    def uses_reference_model(self) -> bool:
        """Whether the KL penalty needs the initial policy as a reference."""
        return self.loss_fn.reference_policy_kl_penalty > 0
