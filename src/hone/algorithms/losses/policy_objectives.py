"""Objectives of a token's ratio and advantage, [N], to be minimised: pure functions. Shapes: `_N` target tokens.

    clipped     max(-A r, -A clip(r, 1 - low, 1 + high)), at most -A c where A < 0        PPO, arXiv 1707.06347 eq. 7
    cispo       -A sg(clip(r, 1 - low, 1 + high)) log pi                                  arXiv 2506.13585 eq. 4
    sapo        -A sigmoid(tau (r - 1)) 4 / tau, tau by the sign of A                     arXiv 2511.20347 eq. 5 and 6
    reinforce   -A log pi

At r = 1 all four have the gradient -A d log pi.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hone.config.schema import LossConfig


def objective(ratio_N: Tensor, logprobs_N: Tensor, advantage_N: Tensor, config: LossConfig) -> Tensor:
    """The configured objective."""
    if config.disable_ppo_ratio:
        return -advantage_N * logprobs_N
    if config.use_sapo:
        positive, negative = config.sapo_temperature_pos, config.sapo_temperature_neg
        return sapo(ratio_N, advantage_N, positive=positive, negative=negative)
    clipped_N = ratio_N.clamp(1 - config.ratio_clip_min, 1 + config.ratio_clip_max)
    if config.use_cispo:  # the clipped ratio is a weight, not a gradient path
        return -advantage_N * clipped_N.detach() * logprobs_N
    return clipped(ratio_N, clipped_N, advantage_N, config.ratio_clip_c)


def clipped(ratio_N: Tensor, clipped_N: Tensor, advantage_N: Tensor, most: float | None) -> Tensor:
    """PPO's clipped objective; `most` is the dual clip's c (arXiv 1912.09729 eq. 5)."""
    loss_N = torch.maximum(-advantage_N * ratio_N, -advantage_N * clipped_N)
    if most is None:
        return loss_N
    return torch.where(advantage_N < 0, torch.minimum(loss_N, -advantage_N * most), loss_N)


def sapo(ratio_N: Tensor, advantage_N: Tensor, *, positive: float, negative: float) -> Tensor:
    """A soft gate in place of the clip: its gradient by the ratio is 1 at ratio 1 and decreases on both sides."""
    tau_N = torch.where(advantage_N > 0, positive, negative)
    return -advantage_N * torch.sigmoid(tau_N * (ratio_N - 1)) * 4 / tau_N
