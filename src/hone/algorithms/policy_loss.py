"""What GRPO and PPO share: the policy-gradient loss, samples from rollouts, passes of the optimizer over them.

    loss = mean over tokens of w_t objective(rho_t, A_t) + beta KL_t - c H_t                          `PolicyLoss`
           + mu times the mean of -log pi over the tokens of right answers (VAPO, arXiv 2504.05118 eq. 10)
    rho_t = pi(token) / pi_old(token), with pi_old the weights before this rollout's first update, or those that sampled
            the token where they are older
    objective: PPO's clip and its relatives (`losses/policy_objectives.py`); w_t: the gap between generator and learner
    (`importance_sampling.py`); H_t: the entropy of the distribution that the token is drawn from, in nats
    KL_t: `losses/kl.py`

Advantages are one per completion (a sequence column) or per token (a token column).
Shapes: `_N` target tokens of a batch, `_T` targets of one sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from hone.algorithms import entropy_mask, ops
from hone.algorithms.importance_sampling import corrected, mismatch, old_logprobs
from hone.algorithms.losses import kl
from hone.algorithms.losses.policy_objectives import objective
from hone.algorithms.minibatches import SamplePerRollout, train
from hone.config.schema import LossConfig
from hone.types import Batch, Group, Learner, LogprobModel, LossOutput, Outputs, Sample, Totals, sample_of


@dataclass(frozen=True)
class PolicyLoss:
    """The policy-gradient loss and its variants. Picklable."""

    config: LossConfig
    on_policy: bool = False
    """The samples come from the weights that are trained, in one update: every ratio is 1. If false, samples without
    `old_logprobs` raise TrainingError."""
    stale: bool = False
    """The samples come from older weights, and the ratio corrects for it: the generator's log-probabilities are the old
    ones, token by token. (With `use_importance_sampling_correction` that weight corrects, and the old ones are the
    learner's: decoupled PPO, arXiv 2110.00641 section 3.)"""

    @property
    def needs_entropy(self) -> bool:
        """Whether the loss reads entropies."""
        return self.config.entropy_coef > 0

    def __call__(self, outputs: Outputs, batch: Batch, totals: Totals) -> LossOutput:
        config, columns, logprobs_N = self.config, batch.token_columns, outputs.logprobs_N
        mean = partial(
            ops.aggregate,
            batch=batch,
            totals=totals,
            token_level=config.token_level_loss,
            constant=config.constant_denominator,
        )
        advantage_N, generated_N = advantage_of(batch), columns["generation_logprobs"]
        old_N = generated_N
        if not self.stale:
            old_N = old_logprobs(logprobs_N, batch, config, on_policy=self.on_policy)
        ratio_N = self._ratio(logprobs_N - old_N, batch)
        loss_N = objective(ratio_N, logprobs_N, advantage_N, config)
        if "high_entropy" in columns:
            loss_N = loss_N * columns["high_entropy"]
        parts, output = self._seen(ratio_N, advantage_N, logprobs_N), LossOutput(logprobs_N.new_zeros(()))
        if not self.stale:
            parts |= mismatch(old_N, generated_N)
            output.largest["generation_mismatch_max"] = largest(parts["generation_mismatch"])
        if config.use_importance_sampling_correction:
            correction = corrected(old_N - generated_N, batch, config)
            loss_N = loss_N * correction.weight_N
            output.metrics |= correction.metrics(batch, totals)
            output.largest["sampling_importance_ratio_max"] = largest(correction.ratio_N)
        output.loss = mean(loss_N)
        output.metrics["policy_loss"] = output.loss.detach()
        if config.positive_example_nll_weight:
            tokens_N = batch.per_token(batch.sequence_columns["right_tokens"])
            nll = -logprobs_N[tokens_N > 0].sum() / max(totals.sums["right_tokens"], 1.0)
            output.loss = output.loss + config.positive_example_nll_weight * nll
            output.metrics["positive_nll_loss"] = nll.detach()
        if "reference_logprobs" in columns:
            weight_N = kl.weight(logprobs_N, old_N, generated_N, config)
            parts["kl"] = kl.estimate(logprobs_N, columns["reference_logprobs"], config, weight_N)
            output.loss = output.loss + config.reference_policy_kl_penalty * mean(parts["kl"])
        tokens = max(totals.tokens, 1.0)
        if outputs.entropy_N is not None:
            parts["entropy"] = outputs.entropy_N
            output.loss = output.loss - config.entropy_coef * outputs.entropy_N.sum() / tokens
        output.metrics |= {name: part_N.detach().sum() / tokens for name, part_N in parts.items()}
        return output

    def _ratio(self, log_ratio_N: Tensor, batch: Batch) -> Tensor:
        if self.config.sequence_level_importance_ratios:
            log_ratio_N = ops.sequence_log_ratio(log_ratio_N, batch)
        return log_ratio_N.exp()

    def _seen(self, ratio_N: Tensor, advantage_N: Tensor, logprobs_N: Tensor) -> dict[str, Tensor]:
        """For each token: its ratio, its part of an entropy estimate, and (with a clip) whether the clip removed its
        gradient, or for CISPO, which clips a weight, whether it was clipped."""
        config, seen = self.config, {"ratio": ratio_N, "approx_entropy": -logprobs_N}
        if config.disable_ppo_ratio or config.use_sapo:
            return seen
        low_N, high_N = ratio_N < 1 - config.ratio_clip_min, ratio_N > 1 + config.ratio_clip_max
        if not config.use_cispo:
            low_N, high_N = low_N & (advantage_N < 0), high_N & (advantage_N > 0)
        return seen | {"clip_low": low_N.float(), "clip_high": high_N.float()}


def largest(values_N: Tensor) -> Tensor:
    """The maximum of non-negative values; 0 without any, as on a rank without work."""
    return values_N.detach().max() if values_N.numel() else values_N.new_zeros(())


def advantage_of(batch: Batch) -> Tensor:
    """The advantage of each target: its own, or its completion's."""
    if "advantage" in batch.token_columns:
        return batch.token_columns["advantage"]
    return batch.per_token(batch.sequence_columns["advantage"])


def samples_per_rollout(groups: Sequence[Group]) -> list[Sample | None]:
    """One sample for each rollout, in order; None for a rollout that failed or is excluded (counted elsewhere). The
    sequence column `right_tokens` is its number of targets where its answer is right, else 0."""
    samples: list[Sample | None] = []
    for index, rollout in enumerate(rollout for group in groups for rollout in group.rollouts):
        if rollout.reward is None or rollout.excluded is not None or not rollout.completion.num_sampled:
            samples.append(None)
            continue
        sample = sample_of(rollout)
        sample.id = f"{sample.id}#{index}"
        sample.sequence_columns["right_tokens"] = float(sample.num_targets) if rollout.right else 0.0
        samples.append(sample)
    return samples


async def add_logprobs(
    learner: LogprobModel,
    reference: LogprobModel | None,
    samples: SamplePerRollout,
    config: LossConfig,
    *,
    updates: int,
    version: int,
) -> list[Tensor | None]:
    """Add the log-probabilities of the policy before the first update and of the reference, where the loss reads them.
    `version`: of the policy's weights; samples of older ones are corrected by an importance weight, if there is one.

    Returns each rollout's KL penalty per token (arXiv 2203.02155 eq. 2) if the KL is part of the reward; else None for
    each."""
    kept = [sample for sample in samples if sample is not None]
    in_reward = config.use_kl_in_reward and reference is not None
    weighted = config.use_importance_sampling_correction and updates > 0 and are_stale(samples, version)
    if in_reward or ((updates > 1 or weighted) and not config.force_on_policy_ratio):
        await add_column(learner, kept, "old_logprobs")
    if reference is not None:
        await add_column(reference, kept, "reference_logprobs")
    kl_penalties: list[Tensor | None] = [None] * len(samples)
    for index, sample in enumerate(samples):
        if sample is not None and in_reward:
            columns = sample.token_columns
            kl_T = kl.estimate(columns["old_logprobs"], columns.pop("reference_logprobs"), config)
            kl_penalties[index] = config.reference_policy_kl_penalty * kl_T
    return kl_penalties


def are_stale(samples: SamplePerRollout, version: int) -> bool:
    """Whether any sample is known to be of older weights than `version`."""
    known = [sample for sample in samples if sample is not None and sample.versions]
    return not all(sample.is_sampled_from(version) for sample in known)


async def add_column(model: LogprobModel, samples: list[Sample], column: str) -> None:
    """Add the model's log-probabilities (or values) of each sample's targets as a column."""
    for sample, found_T in zip(samples, await model.forward(samples), strict=True):
        sample.token_columns[column] = found_T


async def train_policy(
    learner: Learner, samples: SamplePerRollout, config: LossConfig, *, size: int, passes: int, version: int
) -> list[dict[str, float]]:
    """`train` with the policy's loss, on the tokens of highest entropy if `top_entropy_quantile` is below 1.

    `version`: of the weights that are trained. Samples of other versions are off-policy.
    """
    mark = None
    if config.top_entropy_quantile < 1:
        mark = partial(entropy_mask.mark, learner, share=config.top_entropy_quantile)
    fresh = all(sample.is_sampled_from(version) for sample in samples if sample is not None)
    corrected = config.use_importance_sampling_correction or config.force_on_policy_ratio
    loss = PolicyLoss(
        config,
        on_policy=fresh and passes * -(-len(samples) // size) <= 1,
        stale=are_stale(samples, version) and not corrected,
    )
    return await train(learner, samples, loss, size=size, passes=passes, before_update=mark)
