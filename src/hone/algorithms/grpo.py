"""Group Relative Policy Optimization (DeepSeekMath, arXiv 2402.03300) and the settings that make its relatives.

    A_i  = (r_i - baseline of its group) / std of its group                          `advantages.by_group`
    loss = the clipped surrogate with A_i for every token of completion i, + beta KL_t       `policy_loss.PolicyLoss`

Dr. GRPO: normalize_rewards false, constant_denominator L. DAPO: ratio_clip_max above ratio_clip_min, token-level
loss, use_dynamic_sampling (rollout/dynamic_sampling.py), reward_shaping. GSPO: sequence_level_importance_ratios and
token_level_loss false. CISPO: use_cispo. SAPO: use_sapo. RLOO, REINFORCE++, GDPO, MaxRL: adv_estimator.name.
`grpo.preset` sets them as the papers have them (config/presets/).

Simplified away: value model (that is PPO). With one update per rollout pi_old is pi itself and is not computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hone.algorithms import minibatches, policy_loss
from hone.algorithms.advantages import GroupBaseline, compute_advantages
from hone.algorithms.losses import kl
from hone.algorithms.online import Models, OnlineAlgorithm
from hone.config.metric_names import reward_name
from hone.config.schema.grpo import GRPOConfig, GRPOSection
from hone.config.schema.run import RewardFunctionConfig
from hone.types import Group, Learner, LogprobModel, Rollout


def baseline_of(config: GRPOSection, functions: Sequence[RewardFunctionConfig] = ()) -> GroupBaseline:
    """How the completions of a group are compared: the advantage estimator's settings."""
    weights: dict[str, float] = {}
    if config.adv_estimator.reward_weights is not None:
        names = sorted(reward_name(function.name, function.path) for function in functions)
        weights = dict(zip(names, config.adv_estimator.reward_weights, strict=True))
    return GroupBaseline(
        config.adv_estimator.name,
        leave_one_out=config.use_leave_one_out_baseline,
        normalize=config.normalize_rewards,
        minus_baseline=config.adv_estimator.minus_baseline,
        limits=(config.advantage_clip_low, config.advantage_clip_high),
        weights=tuple(weights.items()),
    )


async def step(
    learner: Learner,
    reference: LogprobModel | None,
    groups: Sequence[Group],
    config: GRPOConfig,
    *,
    version: int = 0,
) -> dict[str, float]:
    """All optimizer steps on one batch of rollouts. Metrics are means over the steps. `version`: that of the weights
    (see `policy_loss.train_policy`)."""
    samples = policy_loss.samples_per_rollout(groups)
    size, times = config.policy.train_global_batch_size, config.grpo.num_updates_per_rollout
    updates = times * -(-len(samples) // size)
    kl_penalties = await policy_loss.add_logprobs(
        learner, reference, samples, config.loss_fn, updates=updates, version=version
    )
    compute_advantages(groups, samples, kl_penalties, baseline_of(config.grpo, config.rewards.functions))
    history = await policy_loss.train_policy(
        learner, samples, config.loss_fn, size=size, passes=times, version=version
    )
    trained = float(sum(sample is not None for sample in samples))
    counts = {"updates": float(len(history)), "trained_samples": trained}
    return minibatches.means(history) | kl.kl_penalty_metric(kl_penalties, config.loss_fn) | counts


class GRPO(OnlineAlgorithm):
    """A policy, and its frozen initial model where there is a KL penalty."""

    config: GRPOConfig

    async def step(self, models: Models, groups: Sequence[Group], step_number: int) -> dict[str, float]:
        return await step(models.learner, models.reference, groups, self.config, version=step_number - 1)

    def weight_of_reward(self) -> Callable[[Rollout, str], float] | None:
        if self.config.grpo.adv_estimator.name != "gdpo":
            return None
        return baseline_of(self.config.grpo, self.config.rewards.functions).weight
