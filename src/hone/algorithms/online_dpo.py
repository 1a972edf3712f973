"""Online DPO (Guo et al. 2024, arXiv 2402.04792): DPO on pairs of the policy's own completions, ranked by rewards.

    y_w, y_l = the completions of a prompt with the highest and the lowest reward                       `pair_of`
    loss     = mean over the pairs of  - log sigmoid(beta (log pi(y_w)/ref(y_w) - log pi(y_l)/ref(y_l)))
    ipo      = (mean log-ratio of y_w - mean log-ratio of y_l - 1 / (2 beta))^2          arXiv 2310.12036 eq. 17
    hinge    = max(0, 1 - beta (log-ratio of y_w - log-ratio of y_l))                    arXiv 2309.06657 eq. 11

ref is the policy as the run began. Rewards are the weighted sum of the run's reward functions; a reward model or a
judge may be among them. A group whose best and worst reward are equal gives no pair, and so no gradient: it is counted
(`tied_groups`), and the mean is over the pairs that there are. Completions between the best and the worst of a prompt
are counted (`unpaired_samples`). Shapes: `_T` targets of one sequence.

Simplified away: judges that compare two completions without a reward for each; updates beyond one pass over the pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

from hone.algorithms import minibatches
from hone.algorithms.losses.preference_losses import PreferenceLossParams
from hone.algorithms.losses.preference_objective import PreferenceObjective, PreferenceTerms
from hone.algorithms.online import Models, OnlineAlgorithm
from hone.algorithms.ops import REWARD_NOISE
from hone.config.schema.online_dpo import OnlineDPOConfig
from hone.types import Group, Learner, LogprobModel, Rollout, Sample, sample_of


def usable(group: Group) -> list[Rollout]:
    """The rollouts that can be in a pair: all but those that failed, are excluded or have no sampled token."""
    kept = (r for r in group.rollouts if r.reward is not None and r.excluded is None)
    return [rollout for rollout in kept if rollout.completion.num_sampled]


def pair_of(group: Group, missing_eos_penalty: float = 0.0) -> tuple[Rollout, Rollout] | None:
    """The best and the worst of a group, the first of equals; None where they tie, up to the rounding of fp64 sums."""
    rollouts = usable(group)
    scores = [(r.reward or 0.0) - missing_eos_penalty * (r.completion.finish == "length") for r in rollouts]
    if not scores or max(scores) - min(scores) <= REWARD_NOISE * max(1.0, *map(abs, scores)):
        return None
    return rollouts[scores.index(max(scores))], rollouts[scores.index(min(scores))]


def pair_samples(pair: tuple[Rollout, Rollout]) -> list[Sample]:
    """The sample of the chosen rollout and that of the rejected one, as one unit."""
    samples = [sample_of(rollout) for rollout in pair]
    for sample, label in zip(samples, (1.0, -1.0), strict=True):
        sample.unit = sample.group
        sample.id = f"{sample.id}:{'chosen' if label > 0 else 'rejected'}"
        sample.token_columns, sample.sequence_columns = {}, {"label": label}
    return samples


async def step(
    learner: Learner,
    reference: LogprobModel,
    groups: Sequence[Group],
    config: OnlineDPOConfig,
    *,
    step_number: int,
) -> dict[str, float]:
    """Optimizer steps on the pairs of one batch of rollouts, the run's `step_number`-th from 1. Metrics are means over
    the optimizer steps."""
    settings = config.online_dpo
    pairs = [pair_of(group, settings.missing_eos_penalty or 0.0) for group in groups]
    samples = [
        sample for pair in pairs for sample in (pair_samples(pair) if pair is not None else (None, None))
    ]
    kept = [sample for sample in samples if sample is not None]
    if kept:
        for sample, logprobs_T in zip(kept, await reference.forward(kept), strict=True):
            sample.sequence_columns["reference_logprob_sum"] = float(logprobs_T.double().sum())
    beta = settings.beta_at(step_number - 1)
    terms = PreferenceTerms({settings.loss_type: 1.0})
    objective = PreferenceObjective(terms, PreferenceLossParams(beta=beta), paired=True)
    size = 2 * config.policy.train_global_batch_size
    history = await minibatches.train(learner, samples, objective, size=size, passes=1)
    counts = {
        "updates": len(history),
        "trained_samples": len(kept),
        "tied_groups": sum(pair is None for pair in pairs),
        "unpaired_samples": sum(len(usable(group)) for group in groups) - len(kept),
    }
    gaps = [(best.reward or 0.0) - (worst.reward or 0.0) for best, worst in filter(None, pairs)]
    gap = {"pair_reward_gap": sum(gaps) / len(gaps)} if gaps else {}
    means = minibatches.means(history)
    return means | gap | {"beta": beta} | {name: float(count) for name, count in counts.items()}


class OnlineDPO(OnlineAlgorithm):
    """A policy and its frozen initial model."""

    config: OnlineDPOConfig

    async def step(self, models: Models, groups: Sequence[Group], step_number: int) -> dict[str, float]:
        assert models.reference is not None
        return await step(models.learner, models.reference, groups, self.config, step_number=step_number)
