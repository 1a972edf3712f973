"""Proximal Policy Optimization (arXiv 1707.06347) with a value model, as in InstructGPT (arXiv 2203.02155).

    r_t  = - beta KL_t (with use_kl_in_reward), and the completion's reward on its last token
    A_t  = GAE(gamma, lambda_policy) of r and the values before this rollout, whitened over it      `advantages.gae`
    R_t  = GAE(gamma, lambda_value) + V_t, the target of the values
    policy loss = the clipped surrogate with A_t, + beta KL_t (without use_kl_in_reward)    `policy_loss.PolicyLoss`
    value loss  = scale / 2 mean over tokens of max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2)    `ValueLoss`

V_t is the value of the state from which token t is sampled. The value after the last token is 0, also where the length
cut the completion off. VAPO (arXiv 2504.05118): gae_lambda_value 1, length_adaptive_alpha 0.05 for the policy's lambda,
policy_training_start_step for values that are learned before they are used, ratio_clip_max above ratio_clip_min,
positive_example_nll_weight 0.1. Estimators other than gae have no value model: what is left is the policy's epochs.

Shapes: `_N` targets of a batch, `_T` of one sequence, `_S` sequences, `_ST` targets padded with zeros.

Simplified away: every epoch goes over the minibatches in the rollout's order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hone.algorithms import advantages, minibatches, policy_loss
from hone.algorithms.losses import kl
from hone.algorithms.online import Models, OnlineAlgorithm
from hone.config.schema.ppo import PPOConfig, PPOSection, ValueLossConfig
from hone.errors import TrainingError
from hone.types import Batch, Group, Learner, LogprobModel, LossOutput, Outputs, Rollout, Sample, Totals

TrainedRollouts = list[tuple[Rollout, Sample, Tensor | None]]
"""Rollouts that are trained on, with their samples and their tokens' KL penalties."""


@dataclass(frozen=True)
class ValueLoss:
    """The clipped squared error. Picklable: its only state is the configuration."""

    config: ValueLossConfig

    def __call__(self, outputs: Outputs, batch: Batch, totals: Totals) -> LossOutput:
        values_N = outputs.values_N
        assert values_N is not None
        old_N, returns_N = batch.token_columns["old_values"], batch.token_columns["returns"]
        error_N = (values_N - returns_N).square()
        clipped_N = torch.zeros_like(error_N, dtype=torch.bool)
        if (limit := self.config.cliprange) is not None:
            moved_N = values_N - old_N
            near_N = (old_N + moved_N.clamp(-limit, limit) - returns_N).square()
            clipped_N = (moved_N.abs() > limit) & (near_N > error_N)
            error_N = torch.where(clipped_N, near_N, error_N)
        tokens = max(totals.tokens, 1.0)
        loss = self.config.scale / 2 * error_N.sum() / tokens
        metrics = {
            "value": values_N.detach().sum() / tokens,
            "value_clipped": clipped_N.float().sum() / tokens,
        }
        return LossOutput(loss, metrics)


def baseline_of(config: PPOSection) -> advantages.GroupBaseline:
    """How the completions of a group are compared: the settings of an estimator other than gae."""
    chosen = config.adv_estimator
    assert chosen.name != "gae"
    return advantages.GroupBaseline(
        chosen.name,
        leave_one_out=chosen.use_leave_one_out_baseline,
        normalize=chosen.normalize_rewards,
        minus_baseline=chosen.minus_baseline,
    )


async def step(
    learner: Learner,
    reference: LogprobModel | None,
    value: Learner | None,
    groups: Sequence[Group],
    config: PPOConfig,
    step_number: int,
) -> dict[str, float]:
    """All optimizer steps of both models on one batch of rollouts, the run's `step_number`-th from 1. Metrics are means
    over the steps.

    Raises TrainingError for values that are not finite.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    samples = policy_loss.samples_per_rollout(groups)
    size, epochs = config.policy.train_global_batch_size, config.ppo.ppo_epochs
    warming_up = step_number <= config.ppo.policy_training_start_step
    updates = 0 if warming_up else epochs * -(-len(samples) // size)
    needed = reference if not warming_up or config.loss_fn.use_kl_in_reward else None
    kl_penalties = await policy_loss.add_logprobs(
        learner, needed, samples, config.loss_fn, updates=updates, version=step_number - 1
    )
    metrics = kl.kl_penalty_metric(kl_penalties, config.loss_fn)
    if value is None:
        advantages.compute_advantages(groups, samples, kl_penalties, baseline_of(config.ppo))
    else:
        trained: TrainedRollouts = [
            (rollout, sample, kl_penalty_T)
            for rollout, sample, kl_penalty_T in zip(rollouts, samples, kl_penalties, strict=True)
            if sample is not None
        ]
        kept = [sample for _, sample, _ in trained]
        await policy_loss.add_column(value, kept, "old_values")
        _check(kept)
        metrics |= _compute_advantages(trained, config.ppo)
        metrics |= await _train_value(value, samples, config)
    history: list[dict[str, float]] = []
    if not warming_up:
        history = await policy_loss.train_policy(
            learner, samples, config.loss_fn, size=size, passes=epochs, version=step_number - 1
        )
    counts = {"updates": len(history), "trained_samples": sum(sample is not None for sample in samples)}
    return metrics | minibatches.means(history) | {name: float(count) for name, count in counts.items()}


class PPO(OnlineAlgorithm):
    """A policy, a value model, and the policy's frozen initial model where there is a KL penalty."""

    config: PPOConfig

    async def step(self, models: Models, groups: Sequence[Group], step_number: int) -> dict[str, float]:
        return await step(models.learner, models.reference, models.value, groups, self.config, step_number)


async def _train_value(
    value: Learner, samples: Sequence[Sample | None], config: PPOConfig
) -> dict[str, float]:
    """The value model's passes over the rollouts; names of metrics begin with `value`."""
    size = config.value.train_global_batch_size
    history = await minibatches.train(
        value, samples, ValueLoss(config.value_loss_fn), size=size, passes=config.ppo.ppo_epochs
    )
    means = minibatches.means(history)
    return {name if name.startswith("value") else f"value_{name}": mean for name, mean in means.items()}


def _check(samples: Sequence[Sample]) -> None:
    bad = [sample.id for sample in samples if not sample.token_columns["old_values"].isfinite().all()]
    if bad:
        raise TrainingError(
            f"the value model's values are not finite for {', '.join(bad[:4])}: nothing was updated. Check the weights "
            "of value.model_name, or lower value.optimizer.kwargs.lr"
        )


def _compute_advantages(trained: TrainedRollouts, config: PPOSection) -> dict[str, float]:
    """Set every sample's columns `advantage` and `returns`. Returns metrics of the values before they are trained."""
    if not trained:
        return {}
    chosen = config.adv_estimator
    lengths = [sample.num_targets for _, sample, _ in trained]
    rewards_N = torch.cat([_rewards(*item) for item in trained])
    if config.whiten_rewards:
        rewards_N = advantages.scaled(rewards_N)
    values = [sample.token_columns["old_values"].double() for _, sample, _ in trained]
    rewards_ST, values_ST = pad_sequence(rewards_N.split(lengths), True), pad_sequence(values, True)
    lengths_S = torch.tensor(lengths)

    def estimate(lambda_S: Tensor) -> Tensor:
        found_ST = advantages.gae(rewards_ST, values_ST, gamma=chosen.gae_gamma, lambda_S=lambda_S)
        return torch.cat([row[:length] for row, length in zip(found_ST, lengths, strict=True)])

    values_N, ones_S = torch.cat(values), torch.ones(len(trained), dtype=torch.float64)
    returns_N = estimate(ones_S * chosen.gae_lambda_value) + values_N
    lambda_S = ones_S * chosen.gae_lambda_policy
    if chosen.length_adaptive_alpha:
        lambda_S = advantages.adaptive_lambda(lengths_S, chosen.length_adaptive_alpha)
    advantages_N = estimate(lambda_S)
    if chosen.normalize_advantages:
        advantages_N = advantages.whiten(advantages_N)
    parts = zip(trained, advantages_N.split(lengths), returns_N.split(lengths), strict=True)
    for (rollout, sample, _), advantage_T, returns_T in parts:
        advantages.set_advantage(rollout, sample, advantage_T)
        sample.token_columns["returns"] = returns_T.float()
    spread = float(returns_N.var(correction=0))
    unexplained = float((returns_N - values_N).var(correction=0)) / spread if spread else float("nan")
    return {"explained_variance": 1 - unexplained, "return": float(returns_N.mean())}


def _rewards(rollout: Rollout, sample: Sample, kl_penalty_T: Tensor | None) -> Tensor:
    """Reward of each token: the completion's reward on the last one, minus each token's KL penalty."""
    rewards_T = torch.zeros(sample.num_targets, dtype=torch.float64)
    if kl_penalty_T is not None:
        rewards_T -= kl_penalty_T.double()
    assert rollout.reward is not None
    rewards_T[-1] += rollout.reward
    return rewards_T
