"""Runs of the online loop: rollout sizes, the policy-gradient loss, advantages, rewards."""

from __future__ import annotations

import math
from collections.abc import Iterator

from hone.config.dependent_defaults.settings import (
    Adjustment,
    Rule,
    Settings,
    divisor,
    models,
    nearest_multiple,
)

LOSSES = ("loss_fn.use_cispo", "loss_fn.use_sapo", "loss_fn.disable_ppo_ratio")
"""Alternatives to the clipped loss."""


def sizes(s: Settings) -> Iterator[Adjustment]:
    """A rollout (prompts x completions, or pairs) is a whole number of batches, a batch of micro-batches."""
    prompts, group = f"{s.section}.num_prompts_per_step", f"{s.section}.num_generations_per_prompt"
    whole = [f"{model}.train_global_batch_size" for model in models(s)]
    micro = {key: f"{key.partition('.')[0]}.train_micro_batch_size" for key in whole}
    asked = {key: s[key] for key in whole if s.given(key)}
    asked |= {micro[key]: s[micro[key]] for key in whole if key not in asked and _fixed(s, micro[key])}
    factors = (
        {prompts: s[prompts]}
        if s.config.algorithm.trains_on_pairs
        else {prompts: s[prompts], group: s[group]}
    )
    unit, rollout = math.lcm(*asked.values()), math.prod(factors.values())
    if rollout % unit:
        cause = next(key for key, size in asked.items() if rollout % size)
        for mine in factors:
            if not s.given(mine):
                others = rollout // s[mine]
                count = nearest_multiple(s[mine], unit // math.gcd(unit, others))
                rollout = count * others
                yield Adjustment(mine, count, cause)
                break
    for key in whole:
        part = s[micro[key]] if _fixed(s, micro[key]) else 1
        if s.given(key) or (rollout % s[key] == 0 and s[key] % part == 0):
            continue
        everything = s.default(key) == math.prod(map(s.default, factors))
        size = rollout if everything and rollout % part == 0 else divisor(rollout, s[key], part)
        if size is not None:
            cause = micro[key] if part > 1 and s[key] % part else prompts if s.is_fixed(prompts) else group
            yield Adjustment(key, size, cause)


def _fixed(s: Settings, micro: str) -> bool:
    return s.given(micro) and s[micro] is not None


def groups(s: Settings) -> Iterator[Adjustment]:
    """Comparing a prompt's completions needs at least two of them."""
    prompts, group = f"{s.section}.num_prompts_per_step", f"{s.section}.num_generations_per_prompt"
    if s[group] > 1:
        return
    dynamic, leave = f"{s.section}.use_dynamic_sampling", _leave_one_out(s)
    name, minus = (f"{s.section}.adv_estimator.{key}" for key in ("name", "minus_baseline"))
    compares = s[name] != "gae" and (s[name] != "reinforce_plus_plus" or s[minus])
    comparing = compares and s.given(name) and not (s[name] == "reinforce_plus_plus" and s.given(group))
    cause = next((key for key in (dynamic, leave) if s.is_fixed(key) and s[key]), name if comparing else None)
    if cause is not None and not s.given(group):
        count = s.schema_default(group)
        yield Adjustment(group, count, cause)
        yield Adjustment(prompts, max(1, s[prompts] // count), cause)
        return
    yield Adjustment(dynamic, False, group)
    # A method that was asked for is kept.
    preset = getattr(s.config.algorithm, "preset", None) is not None
    if compares and not preset:  # a completion compared with itself has advantage 0
        if not s.given(name):
            yield Adjustment(name, "reinforce_plus_plus", group)
        if not s.given(name) or s[name] == "reinforce_plus_plus":
            yield Adjustment(minus, False, group)


def _leave_one_out(s: Settings) -> str:
    inner = "" if hasattr(s.config.algorithm, "use_leave_one_out_baseline") else ".adv_estimator"
    return f"{s.section}{inner}.use_leave_one_out_baseline"


def loss(s: Settings) -> Iterator[Adjustment]:
    """One loss, one normalisation over tokens, and importance weights where their limits are given."""
    for key in (key for key in LOSSES if s.given(key) and s[key]):
        yield from (Adjustment(other, False, key) for other in LOSSES if other != key)
        yield Adjustment("loss_fn.ratio_clip_c", None, key)
    constant, by_token = "loss_fn.constant_denominator", "loss_fn.token_level_loss"
    if s[constant] is not None and not s[by_token]:
        yield Adjustment(constant, None, by_token)
        yield Adjustment(by_token, True, constant)
    for key in ("ratio", "type", "level"):
        name = f"loss_fn.truncated_importance_sampling_{key}"
        if s.given(name) and s[name] is not None:
            yield Adjustment("loss_fn.use_importance_sampling_correction", True, name)


def kl(s: Settings) -> Iterator[Adjustment]:
    """KL in the reward uses k1 and a penalty above 0; some settings are for KL in the loss only."""
    in_reward, penalty = "loss_fn.use_kl_in_reward", "loss_fn.reference_policy_kl_penalty"
    kl_type = "loss_fn.reference_policy_kl_type"
    if not s[in_reward]:
        return
    if not s[penalty]:
        yield Adjustment(penalty, s.schema_default(penalty), in_reward)
        yield Adjustment(in_reward, False, penalty)
    if s[kl_type] != "k1":
        yield Adjustment(kl_type, "k1", in_reward)
        yield Adjustment(in_reward, False, kl_type)
    for key in ("loss_fn.use_bias_correction_kl", "loss_fn.use_on_policy_kl_approximation"):
        if s[key]:
            yield Adjustment(key, False, in_reward)
            yield Adjustment(in_reward, False, key)


def one_update(s: Settings) -> Iterator[Adjustment]:
    """A ratio set to 1 allows one update per rollout."""
    forced = "loss_fn.force_on_policy_ratio"
    if s.given(forced) and s[forced]:
        if s.config.algorithm.passes_key is not None:
            yield Adjustment(f"{s.section}.{s.config.algorithm.passes_key}", 1, forced)
        rollout = s[f"{s.section}.num_prompts_per_step"] * s[f"{s.section}.num_generations_per_prompt"]
        yield Adjustment("policy.train_global_batch_size", rollout, forced)


def shaping(s: Settings) -> Iterator[Adjustment]:
    """The buffer of the overlong penalty is no longer than the longest completion."""
    head = f"{s.section}.reward_shaping"
    buffer, longest = f"{head}.overlong_buffer_length", f"{head}.max_response_length"
    if s[f"{head}.enabled"] and s[buffer] > s[longest]:
        yield Adjustment(buffer, max(1, s[longest] // 5), longest)  # a fifth, as in DAPO
        if s.given(buffer):
            yield Adjustment(longest, s[buffer], buffer)


def sampling(s: Settings) -> Iterator[Adjustment]:
    """batch_multiplier is for dynamic sampling."""
    more, dynamic = f"{s.section}.batch_multiplier", f"{s.section}.use_dynamic_sampling"
    if s.given(more) and s[more] != 1:
        yield Adjustment(dynamic, True, more)


def streamed(s: Settings) -> Iterator[Adjustment]:
    """A bound of staleness, and prompts beyond it, are for a stream of rollouts."""
    for key in (f"{s.section}.max_staleness", f"{s.section}.extra_prompts_in_flight"):
        if s.given(key) and s[key] != s.default(key) and s[f"{s.section}.async_rollouts"] is None:
            yield Adjustment(f"{s.section}.async_rollouts", "stream", key)


def apart(s: Settings) -> Iterator[Adjustment]:
    """Who samples while the learner trains has processes of its own."""
    if s[f"{s.section}.async_rollouts"]:
        yield Adjustment("policy.generation.colocated.enabled", False, f"{s.section}.async_rollouts")


def queued(s: Settings) -> Iterator[Adjustment]:
    """Rollouts that do not wait for each other join and leave the built-in generator's batch."""
    generation = "policy.generation"
    if s[f"{s.section}.async_rollouts"] == "stream" and s[f"{generation}.backend"] in ("auto", "builtin"):
        yield Adjustment(f"{generation}.continuous_batching", True, f"{s.section}.async_rollouts")


def correction(s: Settings) -> Iterator[Adjustment]:
    """Samples of older weights need a ratio, or a weight in its place."""
    cause = f"{s.section}.async_rollouts"
    if s[cause] and (s["loss_fn.force_on_policy_ratio"] or s["loss_fn.disable_ppo_ratio"]):
        yield Adjustment("loss_fn.use_importance_sampling_correction", True, cause)


def goal(s: Settings) -> Iterator[Adjustment]:
    """A stopping threshold without a metric is for the metric that ranks checkpoints."""
    metric, threshold = (f"{s.section}.stop_at_validation_{part}" for part in ("metric", "threshold"))
    ranked = s["checkpointing.metric_name"] or ""
    if s[threshold] is not None and s[metric] is None and ranked.startswith("val:"):
        yield Adjustment(metric, ranked.removeprefix("val:"), threshold)


RULES: tuple[Rule, ...] = (sizes, goal)
POLICY_GRADIENT: tuple[Rule, ...] = (groups, loss, kl, one_update, correction)
