"""Runs of the online loop: sizes of a rollout, losses, estimators, a value model, a teacher."""

from __future__ import annotations

import math
from collections.abc import Iterator

from hone.config.checks.losses import SHARED
from hone.config.dependent_defaults.settings import (
    Adjustment,
    Rule,
    Settings,
    divisor,
    models,
    nearest_multiple,
)
from hone.config.schema import DistillConfig, GRPOConfig, PPOConfig

LOSSES = ("loss_fn.use_cispo", "loss_fn.use_sapo", "loss_fn.disable_ppo_ratio")
"""Losses in the clipped one's place."""


def sizes(s: Settings) -> Iterator[Adjustment]:
    """What a step trains on is whole batches, and those whole micro-batches: prompts x completions, or pairs."""
    prompts, group = f"{s.section}.num_prompts_per_step", f"{s.section}.num_generations_per_prompt"
    whole = [f"{model}.train_global_batch_size" for model in models(s)]
    micro = {key: f"{key.partition('.')[0]}.train_micro_batch_size" for key in whole}
    asked = {key: s[key] for key in whole if s.given(key)}
    asked |= {micro[key]: s[micro[key]] for key in whole if key not in asked and _fixed(s, micro[key])}
    factors = (
        {prompts: s[prompts]} if s.config.loop.trains_on_pairs else {prompts: s[prompts], group: s[group]}
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
    """What compares a prompt's completions needs several of them."""
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
    # A method that was asked for stays.
    own = isinstance(s.config, GRPOConfig) and s.config.grpo.preset is not None
    if compares and not own:  # with itself, a completion has an advantage of 0
        if not s.given(name):
            yield Adjustment(name, "reinforce_plus_plus", group)
        if not s.given(name) or s[name] == "reinforce_plus_plus":
            yield Adjustment(minus, False, group)


def _leave_one_out(s: Settings) -> str:
    inner = "" if isinstance(s.config, GRPOConfig) else ".adv_estimator"
    return f"{s.section}{inner}.use_leave_one_out_baseline"


def loss(s: Settings) -> Iterator[Adjustment]:
    """One loss, one way to weigh tokens, and what a limit is a limit of."""
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
    """KL in the reward is k1's, and there is some; what weighs KL in the loss is for KL in the loss."""
    in_reward, penalty, kind = (
        *("loss_fn.use_kl_in_reward", "loss_fn.reference_policy_kl_penalty"),
        "loss_fn.reference_policy_kl_type",
    )
    if not s[in_reward]:
        return
    if not s[penalty]:
        yield Adjustment(penalty, s.schema_default(penalty), in_reward)
        yield Adjustment(in_reward, False, penalty)
    if s[kind] != "k1":
        yield Adjustment(kind, "k1", in_reward)
        yield Adjustment(in_reward, False, kind)
    for key in ("loss_fn.use_bias_correction_kl", "loss_fn.use_on_policy_kl_approximation"):
        if s[key]:
            yield Adjustment(key, False, in_reward)
            yield Adjustment(in_reward, False, key)


def one_update(s: Settings) -> Iterator[Adjustment]:
    """A ratio that is taken as 1 allows for one update of a rollout."""
    forced = "loss_fn.force_on_policy_ratio"
    if s.given(forced) and s[forced]:
        passes = "ppo_epochs" if isinstance(s.config, PPOConfig) else "num_updates_per_rollout"
        yield Adjustment(f"{s.section}.{passes}", 1, forced)
        rollout = s[f"{s.section}.num_prompts_per_step"] * s[f"{s.section}.num_generations_per_prompt"]
        yield Adjustment("policy.train_global_batch_size", rollout, forced)


def shaping(s: Settings) -> Iterator[Adjustment]:
    """The penalty on long completions begins at a length above 0."""
    head = f"{s.section}.reward_shaping"
    buffer, longest = f"{head}.overlong_buffer_length", f"{head}.max_response_length"
    if s[f"{head}.enabled"] and s[buffer] > s[longest]:
        yield Adjustment(buffer, max(1, s[longest] // 5), longest)  # a fifth, as DAPO has it
        if s.given(buffer):
            yield Adjustment(longest, s[buffer], buffer)


def estimator(s: Settings) -> Iterator[Adjustment]:
    """What an estimator of advantages cannot go with, unless it was given."""
    if not isinstance(s.config, GRPOConfig):
        return
    name, weights = "grpo.adv_estimator.name", "grpo.adv_estimator.reward_weights"
    if s.given(weights) and s[weights] is not None:
        yield Adjustment(name, "gdpo", weights)
    if s[name] in ("gdpo", "maxrl"):
        yield from (
            Adjustment(f"grpo.{key}.enabled", False, name)
            for key in ("reward_shaping", "reward_scaling")
            if s[name] == "gdpo" or key == "reward_shaping"
        )
        yield Adjustment("loss_fn.use_kl_in_reward", False, name)


def sampling(s: Settings) -> Iterator[Adjustment]:
    """More prompts than a step needs are for dynamic sampling."""
    more, dynamic = f"{s.section}.batch_multiplier", f"{s.section}.use_dynamic_sampling"
    if s.given(more) and s[more] != 1:
        yield Adjustment(dynamic, True, more)


def goal(s: Settings) -> Iterator[Adjustment]:
    """A threshold is for the metric by which checkpoints are ranked."""
    metric, threshold = (f"{s.section}.stop_at_validation_{part}" for part in ("metric", "threshold"))
    ranked = s["checkpointing.metric_name"] or ""
    if s[threshold] is not None and s[metric] is None and ranked.startswith("val:"):
        yield Adjustment(metric, ranked.removeprefix("val:"), threshold)


def value_model(s: Settings) -> Iterator[Adjustment]:
    """The value model lies beside the policy and reads the same sequences."""
    if not isinstance(s.config, PPOConfig) or s.config.critic is None:
        return
    for key in SHARED:
        mine = f"value.{key}"
        if s.given(mine) and s[mine] is not None and s[mine] != s[f"policy.{key}"]:
            yield Adjustment(f"policy.{key}", s[mine], mine)
    start, steps = "ppo.policy_training_start_step", "ppo.max_num_steps"
    if s[steps] is not None and s[start] >= s[steps]:
        yield Adjustment(steps, s[start] + s[steps], start)


def teacher(s: Settings) -> Iterator[Adjustment]:
    """A setting that one divergence alone reads asks for that; the teacher reads the student's sequences."""
    if not isinstance(s.config, DistillConfig):
        return
    for key, kind in (("mixed_kl_weight", "mixed"), ("jsd_beta", "jsd")):
        if s.given(f"loss_fn.{key}") and s[f"loss_fn.{key}"] != s.schema_default(f"loss_fn.{key}"):
            yield Adjustment("loss_fn.kl_type", kind, f"loss_fn.{key}")
    theirs, ours = "teacher.max_total_sequence_length", "policy.max_total_sequence_length"
    if s[theirs] < s[ours]:
        yield Adjustment(ours, s[theirs], theirs)


RULES: tuple[Rule, ...] = (sizes, goal, teacher)
POLICY_GRADIENT: tuple[Rule, ...] = (groups, loss, kl, one_update)
REWARDED: tuple[Rule, ...] = (shaping, estimator, sampling, value_model)
