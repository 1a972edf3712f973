"""Settings of the policy-gradient loss that cannot work together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from hone.config.schema.online import LossConfig, PolicyGradientConfig
from hone.config.schema.roots import own_section


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
    yield from _loss_variants(chosen)
    yield from _importance_sampling(chosen)
    yield from _kl(chosen)
    settings = config.algorithm
    uncorrected = next(
        (key for key in ("force_on_policy_ratio", "disable_ppo_ratio") if getattr(chosen, key)), None
    )
    if settings.async_rollouts and uncorrected and not chosen.use_importance_sampling_correction:
        yield (
            f"{section}.async_rollouts={settings.async_rollouts} trains on samples of older weights, and with "
            f"loss_fn.{uncorrected}=true no ratio corrects it: set loss_fn.use_importance_sampling_correction to true"
        )
    completions = settings.num_prompts_per_step * settings.num_generations_per_prompt
    updates = settings.updates_per_rollout * (completions // config.policy.train_global_batch_size)
    if chosen.force_on_policy_ratio and updates > 1:
        yield (
            f"loss_fn.force_on_policy_ratio=true sets the ratio to 1, but there are {updates} optimizer steps per "
            "rollout: set policy.train_global_batch_size to the whole rollout, and "
            f"{section}.{settings.passes_key} to 1"
        )


def _kl(loss: LossConfig) -> Iterator[str]:
    """KL estimators that do not suit the place of the KL term, and settings without effect there."""
    kl_type = loss.reference_policy_kl_type
    if loss.use_kl_in_reward and not loss.reference_policy_kl_penalty:
        yield "loss_fn.use_kl_in_reward=true needs loss_fn.reference_policy_kl_penalty above 0"
    elif loss.use_kl_in_reward:
        if kl_type != "k1":
            yield (
                f"loss_fn.reference_policy_kl_type={kl_type} in the reward (loss_fn.use_kl_in_reward=true) makes "
                "tokens that are rarer than in the reference rarer still: set it to k1, whose gradient is the KL's"
            )
        for key in ("use_bias_correction_kl", "use_on_policy_kl_approximation"):
            if getattr(loss, key):
                yield f"loss_fn.{key}=true is for KL in the loss: set it to false, or loss_fn.use_kl_in_reward to false"
    elif loss.reference_policy_kl_penalty and kl_type == "k1" and not loss.corrects_kl:
        yield (
            "loss_fn.reference_policy_kl_type=k1 with loss_fn.use_bias_correction_kl=false has an expected gradient "
            "of 0, so it would not keep the policy near the reference: leave use_bias_correction_kl out, choose k2, or "
            "set loss_fn.use_kl_in_reward=true"
        )


def _loss_variants(loss: LossConfig) -> Iterator[str]:
    chosen = [key for key in ("use_cispo", "use_sapo", "disable_ppo_ratio") if getattr(loss, key)]
    if len(chosen) > 1:
        yield f"loss_fn.{chosen[0]}=true and loss_fn.{chosen[1]}=true are two losses: set one of them to false"
    elif chosen and loss.ratio_clip_c is not None:
        yield (
            f"loss_fn.ratio_clip_c={loss.ratio_clip_c} is for the clipped loss, and does nothing with "
            f"loss_fn.{chosen[0]}=true: set it to null"
        )


def _importance_sampling(loss: LossConfig) -> Iterator[str]:
    """Weights that correct for the difference between generator and learner."""
    high, low = loss.truncated_importance_sampling_ratio, loss.truncated_importance_sampling_ratio_min
    truncation, level = loss.truncated_importance_sampling_type, loss.truncated_importance_sampling_level
    limited = any(value is not None for value in (high, truncation, level))
    if limited and not loss.use_importance_sampling_correction:
        yield (
            "loss_fn.truncated_importance_sampling_ratio limits weights that are not used: set "
            "loss_fn.use_importance_sampling_correction=true, or the ratio, the type and the level to null"
        )
    if truncation is not None and high is None:
        head = "loss_fn.truncated_importance_sampling"
        yield f"{head}_type={truncation} needs {head}_ratio"
    if high is not None and low is not None and low >= high:
        yield (
            f"loss_fn.truncated_importance_sampling_ratio_min={low} is not below "
            f"loss_fn.truncated_importance_sampling_ratio={high}"
        )


def _groups_of_one(config: PolicyGradientConfig) -> Iterator[str]:
    """A completion compared with itself has advantage 0, and so would all of the run."""
    section, estimator = own_section(config), config.algorithm.adv_estimator  # type: ignore[attr-defined]
    baseline = estimator.name == "reinforce_plus_plus" and estimator.minus_baseline
    compares = baseline or estimator.name not in ("gae", "reinforce_plus_plus")
    if config.algorithm.num_generations_per_prompt == 1 and compares:
        minus = f" with {section}.adv_estimator.minus_baseline=true" if baseline else ""
        names = get_args(type(estimator).model_fields["name"].annotation)
        yield (
            f"{section}.adv_estimator.name={estimator.name}{minus} compares the completions of a prompt, but "
            f"{section}.num_generations_per_prompt=1, so that every advantage would be 0: set it to 2 or more, or the "
            f"estimator to {'gae, or to ' if 'gae' in names else ''}reinforce_plus_plus with minus_baseline=false"
        )
