"""Group Relative Policy Optimization (DeepSeekMath, arXiv 2402.03300) and the settings that make its relatives.

    A_i  = (r_i - baseline of its group) / std of its group                          `advantages.by_group`
    loss = the clipped surrogate with A_i for every token of completion i, + beta KL_t       `surrogate.PolicyLoss`

Dr. GRPO: normalize_rewards false, constant_denominator L. DAPO: ratio_clip_max above ratio_clip_min, token-level
loss, use_dynamic_sampling (rollout/filling.py), reward_shaping. GSPO: sequence_level_importance_ratios and
token_level_loss false. CISPO: use_cispo. SAPO: use_sapo. RLOO, REINFORCE++, GDPO, MaxRL: adv_estimator.name.
`grpo.preset` sets them as the papers have them (config/presets/).

Simplified away: value model (that is PPO). With one update per rollout pi_old is pi itself and is not computed again.
"""

from __future__ import annotations

from collections.abc import Sequence

from hone.algorithms import passes, surrogate
from hone.algorithms.advantages import GroupRule, estimate
from hone.config.schema import GRPOConfig, GRPOSection, RewardedConfig
from hone.config.schema.run import RewardFunctionConfig
from hone.types import Group, Learner, Scorer


def rule_of(
    config: GRPOSection, functions: Sequence[RewardFunctionConfig] = (), *, number: int = 1
) -> GroupRule:
    """How the completions of a group are compared; for gdpo with the weights that reward functions have in the run's
    `number`-th step, from 1."""
    weights: dict[str, float] = {}
    if config.adv_estimator.name == "gdpo":
        weights = {_name_of(function): function.weight_at(number - 1) for function in functions}
        if config.adv_estimator.reward_weights is not None:
            weights = dict(zip(sorted(weights), config.adv_estimator.reward_weights, strict=True))
    return GroupRule(
        config.adv_estimator.name,
        leave_one_out=config.use_leave_one_out_baseline,
        normalize=config.normalize_rewards,
        minus_baseline=config.adv_estimator.minus_baseline,
        limits=(config.advantage_clip_low, config.advantage_clip_high),
        weights=tuple(weights.items()),
    )


def unweighted(config: RewardedConfig, *, number: int) -> frozenset[str] | None:
    """Reward functions of weight 0, where each is learnt from by itself; None where their sum is."""
    if not isinstance(config, GRPOConfig) or config.grpo.adv_estimator.name != "gdpo":
        return None
    rule = rule_of(config.grpo, config.rewards.functions, number=number)
    return frozenset(name for name, weight in rule.weights if not weight)


def _name_of(function: RewardFunctionConfig) -> str:
    """What rollouts call it: without both a name and a path, the last part of the place where it is defined."""
    place = (function.path or function.name or "").replace(":", ".").rpartition(".")[2]
    return function.name if function.name and function.path else place


async def step(
    learner: Learner,
    reference: Scorer | None,
    groups: Sequence[Group],
    config: GRPOConfig,
    *,
    number: int = 1,
) -> dict[str, float]:
    """All optimizer steps on one batch of rollouts, the run's `number`-th from 1. Metrics are means over the steps."""
    slots = surrogate.samples_of(groups)
    size, times = config.policy.train_global_batch_size, config.grpo.num_updates_per_rollout
    updates = times * -(-len(slots) // size)
    charges = await surrogate.prepare(learner, reference, slots, config.loss_fn, updates=updates)
    estimate(groups, slots, charges, rule_of(config.grpo, config.rewards.functions, number=number))
    history = await surrogate.train_policy(learner, slots, config.loss_fn, size=size, passes=times)
    trained = float(sum(slot is not None for slot in slots))
    return passes.means(history) | {"updates": float(len(history)), "trained_samples": trained}
