"""What GRPO and PPO share: the clipped surrogate, the samples of rollouts, passes of an optimizer over them.

    loss = - mean over tokens of min(rho_t A_t, clip(rho_t, 1 - low, 1 + high) A_t) + beta KL_t       `PolicyLoss`
    rho_t = pi(token) / pi_old(token), with pi_old the weights before this rollout's first update

(PPO, arXiv 1707.06347 eq. 7.) An advantage is a completion's (a sequence column) or each token's (a token column).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from hone.algorithms import ops
from hone.config.schema import LossConfig
from hone.types import Batch, Group, Learner, LossFn, LossOutput, Outputs, Sample, Scorer, Totals, sample_of

Slots = Sequence[Sample | None]
"""One for each rollout, in order; None for one that is not trained on."""


@dataclass(frozen=True)
class PolicyLoss:
    """The clipped surrogate and its variants. Picklable: its only state is the configuration."""

    config: LossConfig

    def __call__(self, outputs: Outputs, batch: Batch, totals: Totals) -> LossOutput:
        config, logprobs_N = self.config, outputs.logprobs_N
        mean = partial(
            ops.aggregate,
            batch=batch,
            totals=totals,
            token_level=config.token_level_loss,
            constant=config.constant_denominator,
        )
        generated_N = batch.token_columns["generation_logprobs"]
        on_policy = config.force_on_policy_ratio or "old_logprobs" not in batch.token_columns
        old_N = logprobs_N.detach() if on_policy else batch.token_columns["old_logprobs"]
        advantage_N = advantage_of(batch)
        log_ratio_N = logprobs_N - old_N
        if config.sequence_level_importance_ratios:
            log_ratio_N = ops.sequence_log_ratio(log_ratio_N, batch)
        ratio_N = log_ratio_N.exp()
        loss_N = self._surrogate(ratio_N, logprobs_N, advantage_N)
        if config.use_importance_sampling_correction:
            loss_N = loss_N * ops.generator_correction(
                old_N - generated_N,
                batch,
                kind=config.truncated_importance_sampling_type,
                high=config.truncated_importance_sampling_ratio,
                low=config.truncated_importance_sampling_ratio_min,
                sequence_level=config.sequence_level_importance_ratios,
            )
        loss = mean(loss_N)
        parts = {
            "policy_loss": loss,
            "ratio": ratio_N,
            "clip_low": ((ratio_N < 1 - config.ratio_clip_min) & (advantage_N < 0)).float(),
            "clip_high": ((ratio_N > 1 + config.ratio_clip_max) & (advantage_N > 0)).float(),
            "generation_mismatch": (old_N - generated_N).abs(),
            "entropy": -logprobs_N,
        }
        if config.positive_example_nll_weight:
            nll_N = torch.where(advantage_N > 0, -logprobs_N, torch.zeros_like(logprobs_N))
            loss = loss + config.positive_example_nll_weight * mean(nll_N)
        if "reference_logprobs" in batch.token_columns:
            kl_N = self._kl(logprobs_N, generated_N, batch.token_columns["reference_logprobs"])
            loss = loss + config.reference_policy_kl_penalty * mean(kl_N)
            parts["kl"] = kl_N
        metrics = {
            name: (part.detach() if part.dim() == 0 else part.detach().sum() / max(totals.tokens, 1.0))
            for name, part in parts.items()
        }
        return LossOutput(loss, metrics)

    def _surrogate(self, ratio_N: Tensor, logprobs_N: Tensor, advantage_N: Tensor) -> Tensor:
        config = self.config
        clipped_N = ratio_N.clamp(1 - config.ratio_clip_min, 1 + config.ratio_clip_max)
        if config.disable_ppo_ratio:  # REINFORCE
            return -advantage_N * logprobs_N
        if (
            config.use_cispo
        ):  # MiniMax-M1, arXiv 2506.13585 eq. 4: the clipped ratio is a weight, not a gradient path
            return -advantage_N * clipped_N.detach() * logprobs_N
        loss_N = torch.maximum(-advantage_N * ratio_N, -advantage_N * clipped_N)
        if config.ratio_clip_c is not None:  # dual clip, arXiv 1912.09729 eq. 5
            loss_N = torch.where(
                advantage_N < 0, torch.minimum(loss_N, -advantage_N * config.ratio_clip_c), loss_N
            )
        return loss_N

    def _kl(self, logprobs_N: Tensor, generated_N: Tensor, reference_N: Tensor) -> Tensor:
        config = self.config
        kl_N = kl(logprobs_N, reference_N, config)
        if config.use_on_policy_kl_approximation:  # the estimate holds under the policy, not the generator
            kl_N = kl_N * (logprobs_N - generated_N).detach().exp()
        return kl_N


def advantage_of(batch: Batch) -> Tensor:
    """The advantage of each target: its own, or its completion's."""
    if "advantage" in batch.token_columns:
        return batch.token_columns["advantage"]
    return batch.per_token(batch.sequence_columns["advantage"])


def kl(logprobs_N: Tensor, reference_N: Tensor, config: LossConfig) -> Tensor:
    """Per-token KL(policy || reference), estimated as configured."""
    return ops.kl_estimate(
        logprobs_N,
        reference_N,
        config.reference_policy_kl_type,
        input_clamp=config.kl_input_clamp_value,
        output_clamp=config.kl_output_clamp_value,
    )


def samples_of(groups: Sequence[Group]) -> list[Sample | None]:
    """One sample for each rollout, in order; None for a rollout that failed or is excluded (counted elsewhere)."""
    samples: list[Sample | None] = []
    for index, rollout in enumerate(rollout for group in groups for rollout in group.rollouts):
        if rollout.reward is None or rollout.excluded is not None or not rollout.completion.num_sampled:
            samples.append(None)
            continue
        sample = sample_of(rollout)
        sample.id = f"{sample.id}#{index}"
        samples.append(sample)
    return samples


async def prepare(
    learner: Scorer, reference: Scorer | None, slots: Slots, config: LossConfig, *, updates: int
) -> list[Tensor | None]:
    """Add what the policy and the reference say before the first update, where the loss will read it.

    Returns what each token of each slot is charged for its KL (arXiv 2203.02155 eq. 2) where that is a part of the
    reward and not of the loss; else None for each.
    """
    samples = [sample for sample in slots if sample is not None]
    in_reward = config.use_kl_in_reward and reference is not None
    if in_reward or (updates > 1 and not config.force_on_policy_ratio):
        await score(learner, samples, "old_logprobs")
    if reference is not None:
        await score(reference, samples, "reference_logprobs")
    charges: list[Tensor | None] = [None] * len(slots)
    for index, sample in enumerate(slots):
        if sample is not None and in_reward:
            columns = sample.token_columns
            kl_T = kl(columns["old_logprobs"], columns.pop("reference_logprobs"), config)
            charges[index] = config.reference_policy_kl_penalty * kl_T
    return charges


async def score(model: Scorer, samples: list[Sample], column: str) -> None:
    """Add the model's log-probabilities (or values) of each sample's targets as a column."""
    for sample, said_T in zip(samples, await model.forward(samples), strict=True):
        sample.token_columns[column] = said_T


async def train(
    learner: Learner, slots: Slots, loss: LossFn, *, size: int, passes: int
) -> list[dict[str, float]]:
    """Go over the rollouts `passes` times, in their order, with an update for every `size`; the metrics of each."""
    history: list[dict[str, float]] = []
    for _ in range(passes):
        for start in range(0, len(slots), size):
            batch = [sample for sample in slots[start : start + size] if sample is not None]
            if not batch:  # every rollout failed or was filtered: nothing to learn, and the metrics say so
                continue
            metrics = await learner.forward_backward(batch, loss)
            history.append(metrics | await learner.optim_step())
    return history


def means(history: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean over the updates of each metric."""
    return {name: sum(m[name] for m in history) / len(history) for name in (history[0] if history else ())}
