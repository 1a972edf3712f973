"""Advantages from rewards and values: how much better an action was than expected.

    GRPO, RLOO       A_i = r_i - a baseline of its group (over the group's std)            `ops.group_advantages`
    MaxRL            A_i = r_i - its group's mean, over that mean                          `ops.mean_advantages`
    GDPO             A_i = sum over k of w_k A_i of reward k alone, over the rollout's std `gdpo`
    REINFORCE++      A_t = whitened over the rollout: r - KL from t on                     `reinforce_plus_plus`
    GAE              A_t = sum over k of (gamma lambda)^k delta_(t+k)                      `gae`

GRPO and PPO share the estimators that compare a prompt's completions (`by_group`); GAE needs a value model. Shapes:
`_G` completions of a group, `_N` values of a rollout, `_S` sequences, `_T` targets of one sequence, `_ST` targets
padded with zeros. All in fp64, on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hone.algorithms import ops
from hone.errors import TrainingError
from hone.types import Group, Rollout, Sample


@dataclass(frozen=True)
class GroupBaseline:
    """How the completions of a prompt are compared."""

    name: Literal["grpo", "rloo", "reinforce_plus_plus", "gdpo", "maxrl"] = "grpo"
    leave_one_out: bool = False
    normalize: bool = False
    minus_baseline: bool = True
    limits: tuple[float | None, float | None] = (None, None)
    weights: tuple[tuple[str, float], ...] = ()
    """gdpo: weights of reward functions by name, in place of those that rollouts were scored with."""

    def weight(self, rollout: Rollout, name: str) -> float:
        """gdpo: the weight of one of a rollout's rewards. Raises TrainingError where it has none."""
        found = dict(self.weights).get(name, rollout.weights.get(name))
        if found is None:
            raise TrainingError(f"reward '{name}' of {rollout.prompt.id} has no weight: it cannot be summed")
        return found


def gae(rewards_ST: Tensor, values_ST: Tensor, *, gamma: float, lambda_S: Tensor) -> Tensor:
    """Generalized advantage estimates (arXiv 1506.02438 eq. 16), [S, T]; zero after a sequence's last target.

    delta_t = r_t + gamma V_(t+1) - V_t, with V of the state from which token t is sampled, and 0 after the last.
    `lambda_S`: one lambda for each sequence.
    """
    advantages_ST = torch.zeros_like(rewards_ST)
    later_S = next_S = torch.zeros_like(rewards_ST[:, 0])
    for t in range(rewards_ST.shape[1] - 1, -1, -1):
        later_S = rewards_ST[:, t] + gamma * next_S - values_ST[:, t] + gamma * lambda_S * later_S
        next_S = values_ST[:, t]
        advantages_ST[:, t] = later_S
    return advantages_ST


def adaptive_lambda(lengths_S: Tensor, alpha: float) -> Tensor:
    """Lambda of a completion of l tokens, 1 - 1 / (alpha l), at least 0: the horizon grows with the length (VAPO,
    arXiv 2504.05118 section 4.2)."""
    return (1 - 1 / (alpha * lengths_S.double())).clamp(min=0)


def whiten(values_N: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Normalise to mean 0 and standard deviation 1 (ddof 1) over a whole rollout, never a micro-batch. Exactly zero
    where all values are equal, up to the rounding of fp64 sums."""
    if values_N.numel() < 2 or ops.all_equal(values_N):
        return torch.zeros_like(values_N)
    return (values_N - values_N.mean()) / (values_N.std() + eps)


def scaled(values_N: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Divide by the standard deviation over a whole rollout. The mean is kept: without it, length would be rewarded.
    Unchanged where all values are equal."""
    if values_N.numel() < 2 or ops.all_equal(values_N):
        return values_N
    return values_N / (values_N.std() + eps)


def reinforce_plus_plus(returns: Sequence[Tensor]) -> list[Tensor]:
    """REINFORCE++ (arXiv 2501.03262 eq. 8 and 9): each token's return, whitened over all tokens of the rollout."""
    lengths = [len(return_T) for return_T in returns]
    return list(whiten(torch.cat(list(returns))).split(lengths)) if lengths else []


def by_group(
    groups: Sequence[Group], baseline: GroupBaseline, kl_penalties: Mapping[int, float] | None = None
) -> None:
    """Set `advantage` of every rollout that has a reward, compared within its group. Failed rollouts are left out.

    grpo: as the baseline's settings say. rloo: the mean of the others as baseline, nothing else (arXiv 2402.14740
    eq. 6). maxrl: over the group's mean. reinforce_plus_plus: the reward, minus the group's mean if `minus_baseline`;
    `compute_advantages` does the rest. `kl_penalties`, by the `id` of a rollout, are subtracted from the rewards first.
    Raises TrainingError (see ops.mean_advantages).
    """
    kl_penalties = kl_penalties or {}
    for group in groups:
        scored = [rollout for rollout in group.rollouts if rollout.reward is not None]
        rewards = [(rollout.reward or 0.0) - kl_penalties.get(id(rollout), 0.0) for rollout in scored]
        rewards_G = torch.tensor(rewards, dtype=torch.float64)
        for rollout, value in zip(scored, _of_group(rewards_G, baseline).tolist(), strict=True):
            rollout.advantage = value


def _of_group(rewards_G: Tensor, baseline: GroupBaseline) -> Tensor:
    if baseline.name == "reinforce_plus_plus" and not baseline.minus_baseline:
        return rewards_G
    if baseline.name == "maxrl":
        return ops.mean_advantages(rewards_G, limits=baseline.limits)
    ruled = baseline.name in ("grpo", "gdpo")
    return ops.group_advantages(
        rewards_G,
        leave_one_out=baseline.name == "rloo" or (ruled and baseline.leave_one_out),
        normalize=ruled and baseline.normalize,
        limits=baseline.limits if baseline.name in ("grpo", "rloo") else (None, None),
    )


def gdpo(groups: Sequence[Group], baseline: GroupBaseline) -> None:
    """GDPO (arXiv 2601.05242 eq. 4 to 6): advantages within the group for each reward function, summed with the
    functions' weights and scaled to standard deviation 1 over the rollout (their mean is 0 already).

    A rollout to which a function does not apply (None) is left out of that function's comparison.
    """
    scored = [rollout for group in groups for rollout in group.rollouts if rollout.reward is not None]
    names = dict.fromkeys(name for rollout in scored for name in rollout.rewards)
    sums = dict.fromkeys(map(id, scored), 0.0)
    for group in groups:
        for name in names:
            judged = [r for r in group.rollouts if id(r) in sums and r.rewards.get(name) is not None]
            rewards_G = torch.tensor([rollout.rewards[name] for rollout in judged], dtype=torch.float64)
            for rollout, value in zip(judged, _of_group(rewards_G, baseline).tolist(), strict=True):
                sums[id(rollout)] += baseline.weight(rollout, name) * value
    values_S = scaled(torch.tensor(list(sums.values()), dtype=torch.float64))
    if baseline.limits != (None, None):
        values_S = values_S.clamp(*baseline.limits)
    for rollout, value in zip(scored, values_S.tolist(), strict=True):
        rollout.advantage = value


def compute_advantages(
    groups: Sequence[Group],
    samples: Sequence[Sample | None],
    kl_penalties: Sequence[Tensor | None],
    baseline: GroupBaseline,
) -> None:
    """Set every rollout's advantage and every sample's column `advantage`.

    `kl_penalties` (KL in the reward) are subtracted from the completion's reward; for reinforce_plus_plus from each
    token's return. The reward recorded in a rollout does not change.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    per_token = baseline.name == "reinforce_plus_plus"
    if baseline.name == "gdpo":
        gdpo(groups, baseline)
    else:
        penalties = () if per_token else zip(rollouts, kl_penalties, strict=True)
        by_group(groups, baseline, {id(r): float(kl_T.sum()) for r, kl_T in penalties if kl_T is not None})
    trained = [(r, s, c) for r, s, c in zip(rollouts, samples, kl_penalties, strict=True) if s is not None]
    if not per_token:
        for rollout, sample, _ in trained:
            sample.sequence_columns["advantage"] = rollout.advantage or 0.0
        return
    returns = [_returns(rollout, sample, kl_penalty_T) for rollout, sample, kl_penalty_T in trained]
    for (rollout, sample, _), advantage_T in zip(trained, reinforce_plus_plus(returns), strict=True):
        bounded = baseline.limits != (None, None)
        set_advantage(rollout, sample, advantage_T.clamp(*baseline.limits) if bounded else advantage_T)


def set_advantage(rollout: Rollout, sample: Sample, advantage_T: Tensor) -> None:
    """Give a sample an advantage for each token, and the rollout their mean."""
    sample.token_columns["advantage"] = advantage_T.float()
    rollout.advantage = float(advantage_T.mean())


def _returns(rollout: Rollout, sample: Sample, kl_penalty_T: Tensor | None) -> Tensor:
    """Each token's return: the completion's score, minus the KL penalties from that token on."""
    return_T = torch.full((sample.num_targets,), rollout.advantage or 0.0, dtype=torch.float64)
    return return_T if kl_penalty_T is None else return_T - kl_penalty_T.double().flip(0).cumsum(0).flip(0)
