"""Settings of losses, advantages and single algorithms that cannot work together."""

from __future__ import annotations

from collections.abc import Iterator

from hone.config.checks.models import not_a_multiple
from hone.config.checks.rollouts import environment_names
from hone.config.checks.run import validates
from hone.config.schema import DistillConfig, GRPOConfig, LossConfig, PolicyGradientConfig, PPOConfig
from hone.config.schema.roots import own_section

SHARED = (
    *("tensor_parallel_size", "context_parallel_size", "pipeline_parallel_size", "dp_replicate_size"),
    *("sequence_parallel", "cpu_offload", "max_total_sequence_length"),
)
"""What the policy and its value model have alike: they read the same sequences on the same devices."""


def policy_loss(config: PolicyGradientConfig) -> Iterator[str]:
    """Everything that is wrong with `loss_fn`, as sentences."""
    chosen, section = config.loss_fn, own_section(config)
    for key in ("ratio_clip_min", "ratio_clip_max"):
        if getattr(chosen, key) < 0:
            yield f"loss_fn.{key}={getattr(chosen, key)} is negative: it is a distance from 1, such as 0.2"
    if chosen.ratio_clip_min > 1:
        yield f"loss_fn.ratio_clip_min={chosen.ratio_clip_min} is more than 1, but ratios are never negative"
    if chosen.ratio_clip_c is not None and chosen.ratio_clip_c <= 1:
        yield f"loss_fn.ratio_clip_c={chosen.ratio_clip_c}: the dual clip's limit is more than 1, such as 3"
    if chosen.constant_denominator is not None and not chosen.token_level_loss:
        yield (
            "loss_fn.constant_denominator and loss_fn.token_level_loss=false are two ways to weigh tokens: set "
            "constant_denominator to null, or token_level_loss to true"
        )
    yield from _groups_of_one(config)
    yield from _kind_of_loss(chosen)
    yield from _importance_sampling(chosen)
    yield from _kl(chosen)
    loop, passes = config.loop, "ppo_epochs" if isinstance(config, PPOConfig) else "num_updates_per_rollout"
    completions = loop.num_prompts_per_step * loop.num_generations_per_prompt
    updates = loop.updates_per_rollout * (completions // config.policy.train_global_batch_size)
    if chosen.force_on_policy_ratio and updates > 1:
        yield (
            f"loss_fn.force_on_policy_ratio=true takes the ratio as 1, but there are {updates} optimizer steps per "
            f"rollout: set policy.train_global_batch_size to the whole rollout, and {section}.{passes} to 1"
        )


def _kl(loss: LossConfig) -> Iterator[str]:
    """What an estimator of the KL cannot be used for, and what does nothing where it stands."""
    kind = loss.reference_policy_kl_type
    if loss.use_kl_in_reward and not loss.reference_policy_kl_penalty:
        yield "loss_fn.use_kl_in_reward=true needs loss_fn.reference_policy_kl_penalty above 0"
    elif loss.use_kl_in_reward:
        if kind != "k1":
            yield (
                f"loss_fn.reference_policy_kl_type={kind} in the reward (loss_fn.use_kl_in_reward=true) makes tokens "
                "that are rarer than in the reference rarer still: set it to k1, whose gradient is the KL's"
            )
        for key in ("use_bias_correction_kl", "use_on_policy_kl_approximation"):
            if getattr(loss, key):
                yield f"loss_fn.{key}=true is for KL in the loss: set it to false, or loss_fn.use_kl_in_reward to false"
    elif loss.reference_policy_kl_penalty and kind == "k1" and not loss.corrects_kl:
        yield (
            "loss_fn.reference_policy_kl_type=k1 with loss_fn.use_bias_correction_kl=false has an expected gradient "
            "of 0, so nothing would hold the policy: leave use_bias_correction_kl out, choose k2, or set "
            "loss_fn.use_kl_in_reward=true"
        )


def _kind_of_loss(loss: LossConfig) -> Iterator[str]:
    chosen = [key for key in ("use_cispo", "use_sapo", "disable_ppo_ratio") if getattr(loss, key)]
    if len(chosen) > 1:
        yield f"loss_fn.{chosen[0]}=true and loss_fn.{chosen[1]}=true are two losses: set one of them to false"
    elif chosen and loss.ratio_clip_c is not None:
        yield (
            f"loss_fn.ratio_clip_c={loss.ratio_clip_c} is for the clipped loss, and does nothing with "
            f"loss_fn.{chosen[0]}=true: set it to null"
        )


def _importance_sampling(loss: LossConfig) -> Iterator[str]:
    """Weights for the gap between generator and learner."""
    high, low = loss.truncated_importance_sampling_ratio, loss.truncated_importance_sampling_ratio_min
    kind, level = loss.truncated_importance_sampling_type, loss.truncated_importance_sampling_level
    if (
        any(value is not None for value in (high, kind, level))
        and not loss.use_importance_sampling_correction
    ):
        yield (
            "loss_fn.truncated_importance_sampling_ratio limits weights that are not used: set "
            "loss_fn.use_importance_sampling_correction=true, or the ratio, the type and the level to null"
        )
    if kind is not None and high is None:
        yield (
            f"loss_fn.truncated_importance_sampling_type={kind} needs loss_fn.truncated_importance_sampling_ratio"
        )
    if high is not None and low is not None and low >= high:
        yield (
            f"loss_fn.truncated_importance_sampling_ratio_min={low} is not below "
            f"loss_fn.truncated_importance_sampling_ratio={high}"
        )


def _groups_of_one(config: PolicyGradientConfig) -> Iterator[str]:
    """A completion that is compared with itself has an advantage of 0, and so would all of the run."""
    assert isinstance(config, GRPOConfig | PPOConfig)
    section, chosen = own_section(config), config.loop.adv_estimator
    apart = chosen.name == "gae" or (chosen.name == "reinforce_plus_plus" and not chosen.minus_baseline)
    if config.loop.num_generations_per_prompt == 1 and not apart:
        minus = (
            f" with {section}.adv_estimator.minus_baseline=true"
            if chosen.name == "reinforce_plus_plus"
            else ""
        )
        instead = "gae, or to " if isinstance(config, PPOConfig) else ""
        yield (
            f"{section}.adv_estimator.name={chosen.name}{minus} compares the completions of a prompt, but "
            f"{section}.num_generations_per_prompt=1, so that every advantage would be 0: set it to 2 or more, or the "
            f"estimator to {instead}reinforce_plus_plus with minus_baseline=false"
        )


def _estimator(config: GRPOConfig) -> Iterator[str]:
    """What gdpo and maxrl cannot go with."""
    grpo, name = config.grpo, config.grpo.adv_estimator.name
    weights, functions = grpo.adv_estimator.reward_weights, config.rewards.functions
    if weights is not None and name != "gdpo":
        yield f"grpo.adv_estimator.reward_weights is for gdpo, but grpo.adv_estimator.name={name}: set it to null"
    elif weights is not None and len(weights) != len(functions):
        yield (
            f"grpo.adv_estimator.reward_weights has {len(weights)} numbers, but rewards.functions has "
            f"{len(functions)} functions: give one for each, in alphabetical order of their names"
        )
    if name == "gdpo":
        for key in ("reward_scaling", "reward_shaping"):
            if getattr(grpo, key).enabled:
                yield (
                    f"grpo.{key}.enabled=true changes the sum of the rewards, but gdpo learns from each of them: set "
                    "it to false, and make it a reward function (such as `length`)"
                )
        if config.loss_fn.use_kl_in_reward:
            yield "loss_fn.use_kl_in_reward=true: gdpo learns from the reward functions alone; set it to false"
    if name == "maxrl":
        scale, shape = grpo.reward_scaling, grpo.reward_shaping
        if (scale.enabled and scale.target_min < 0) or (
            shape.enabled and shape.stop_properly_penalty_coef is None
        ):
            yield (
                "grpo.adv_estimator.name=maxrl divides by a group's mean reward, so none may be negative: set "
                "grpo.reward_scaling.target_min to 0, and grpo.reward_shaping.enabled to false"
            )
        if config.loss_fn.use_kl_in_reward:
            yield "loss_fn.use_kl_in_reward=true makes rewards negative, which maxrl cannot use; set it to false"


def grpo(config: GRPOConfig) -> Iterator[str]:
    """The estimator of advantages and their limits."""
    settings = config.grpo
    yield from _estimator(config)
    low, high = settings.advantage_clip_low, settings.advantage_clip_high
    if low is not None and high is not None and low >= high:
        yield f"grpo.advantage_clip_low={low} is not below grpo.advantage_clip_high={high}"


def ppo(config: PPOConfig) -> Iterator[str]:
    """What the value model shares with the policy, and what does nothing without one."""
    settings, estimator, policy, value = config.ppo, config.ppo.adv_estimator, config.policy, config.critic
    if value is None:
        if settings.policy_training_start_step:
            yield (
                f"ppo.policy_training_start_step={settings.policy_training_start_step} trains a value model first, but "
                f"ppo.adv_estimator.name={estimator.name} has none: set it to 0, or the estimator to gae"
            )
        if settings.whiten_rewards:
            yield f"ppo.whiten_rewards=true does nothing for ppo.adv_estimator.name={estimator.name}: set it to false"
        return
    rollout = settings.num_prompts_per_step * settings.num_generations_per_prompt
    if rollout % value.train_global_batch_size:
        yield not_a_multiple(
            "the completions of a rollout",
            rollout,
            "value.train_global_batch_size",
            value.train_global_batch_size,
        )
    steps = settings.max_num_steps
    if steps is not None and settings.policy_training_start_step >= steps:
        yield (
            f"ppo.policy_training_start_step={settings.policy_training_start_step} leaves no step of "
            f"ppo.max_num_steps={steps} in which the policy is trained: lower it"
        )
    for key in SHARED:
        mine, theirs = getattr(value, key), getattr(policy, key)
        if mine is not None and mine != theirs and not (theirs is None and mine in (1, False)):
            yield (
                f"value.{key}={mine} and policy.{key}={theirs}: both models share devices and sequences; "
                f"leave value.{key} out"
            )


def distill(config: DistillConfig) -> Iterator[str]:
    """The divergence, and a teacher that reads the student's sequences."""
    loss, teacher, policy = config.loss_fn, config.teacher, config.policy
    given = loss.model_fields_set
    for key, kind in (("mixed_kl_weight", "mixed"), ("jsd_beta", "jsd")):
        value, default = getattr(loss, key), type(loss).model_fields[key].default
        if loss.kl_type != kind and key in given and value != default:
            yield f"loss_fn.{key}={value} does nothing for loss_fn.kl_type={loss.kl_type}: it is for {kind}"
    if teacher.max_total_sequence_length < policy.max_total_sequence_length:
        yield (
            f"teacher.max_total_sequence_length={teacher.max_total_sequence_length} is less than "
            f"policy.max_total_sequence_length={policy.max_total_sequence_length}, but the teacher reads the student's "
            "sequences: leave it out"
        )
    if not config.rewards.functions and validates(config) and set(environment_names(config)) <= {"math"}:
        yield (
            "rewards.functions is empty, so nothing says which validation answers are right: list functions, such as "
            "rewards.functions='[{name: math}]' (or data.default.env_name=math), or set data.validation to null"
        )
    same = [teacher.model_name, teacher.hf_config_overrides] == [
        policy.model_name,
        policy.hf_config_overrides,
    ]
    if same and policy.lora.adapter_path is None:
        yield (
            f"teacher.model_name={teacher.model_name} is the student itself, which has nothing to learn from it: name "
            "a better model"
        )
