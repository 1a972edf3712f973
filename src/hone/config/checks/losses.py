"""Settings of the policy's loss and of advantages that cannot work together."""

from __future__ import annotations

from collections.abc import Iterator

from hone.config.schema import GRPOConfig, LossConfig, PPOConfig, RLConfig, RLSection


def loss(config: RLConfig, kind: str) -> Iterator[str]:
    """Everything that is wrong with `loss_fn`, as sentences."""
    chosen = config.loss_fn
    for key in ("ratio_clip_min", "ratio_clip_max"):
        if getattr(chosen, key) < 0:
            yield f"loss_fn.{key}={getattr(chosen, key)} is negative: it is a distance from 1, such as 0.2"
    if chosen.ratio_clip_min > 1:
        yield f"loss_fn.ratio_clip_min={chosen.ratio_clip_min} is more than 1, but ratios are never negative"
    if chosen.ratio_clip_c is not None and chosen.ratio_clip_c <= 1:
        yield f"loss_fn.ratio_clip_c={chosen.ratio_clip_c}: the dual clip's limit is more than 1, such as 3"
    if chosen.constant_denominator is not None and not chosen.token_level_loss:
        yield (
            "loss_fn.constant_denominator and loss_fn.token_level_loss=false are two ways to weigh "
            "tokens: set "
            "constant_denominator to null, or token_level_loss to true"
        )
    yield from groups_of_one(config, kind)
    yield from _kind_of_loss(chosen)
    yield from _correction(chosen)
    yield from _kl(chosen)
    loop, passes = config.loop, "ppo_epochs" if kind == "ppo" else "num_updates_per_rollout"
    completions = loop.num_prompts_per_step * loop.num_generations_per_prompt
    updates = loop.updates_per_rollout * (completions // config.policy.train_global_batch_size)
    if chosen.force_on_policy_ratio and updates > 1:
        yield (
            f"loss_fn.force_on_policy_ratio=true takes the ratio as 1, but there are {updates} "
            "optimizer steps per "
            f"rollout: set policy.train_global_batch_size to the whole rollout, and {kind}.{passes} to 1"
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


def dynamic_sampling(loop: RLSection, kind: str) -> Iterator[str]:
    """What dynamic sampling needs, and what needs dynamic sampling."""
    if loop.use_dynamic_sampling and loop.num_generations_per_prompt == 1:
        yield (
            f"{kind}.use_dynamic_sampling=true leaves out groups whose rewards are equal, but a group is one "
            f"completion: set {kind}.num_generations_per_prompt to 2 or more"
        )
    if loop.batch_multiplier != 1 and not loop.use_dynamic_sampling:
        yield (
            f"{kind}.batch_multiplier={loop.batch_multiplier:g} is for dynamic sampling: set it to 1, or "
            f"{kind}.use_dynamic_sampling to true"
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


def _correction(loss: LossConfig) -> Iterator[str]:
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


def estimator(config: GRPOConfig) -> Iterator[str]:
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


def groups_of_one(config: RLConfig, kind: str) -> Iterator[str]:
    """A completion that is compared with itself has an advantage of 0, and so would all of the run."""
    assert isinstance(config, GRPOConfig | PPOConfig)
    chosen = config.grpo.adv_estimator if isinstance(config, GRPOConfig) else config.ppo.adv_estimator
    apart = chosen.name == "gae" or (chosen.name == "reinforce_plus_plus" and not chosen.minus_baseline)
    if config.loop.num_generations_per_prompt == 1 and not apart:
        minus = (
            f" with {kind}.adv_estimator.minus_baseline=true" if chosen.name == "reinforce_plus_plus" else ""
        )
        instead = "gae, or to " if kind == "ppo" else ""
        yield (
            f"{kind}.adv_estimator.name={chosen.name}{minus} compares the completions of a prompt, but "
            f"{kind}.num_generations_per_prompt=1, so that every advantage would be 0: set it to 2 or more, or the "
            f"estimator to {instead}reinforce_plus_plus with minus_baseline=false"
        )
