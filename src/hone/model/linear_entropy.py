"""The entropy of softmax(logits / T) from its exponentials, tile by tile: what `linear_logprobs` adds for it.

With x = (logit - largest) / T, e = exp(x), Z = sum e and W = sum e x, all over the vocabulary:

    p = e / Z        H = -sum p log p = log Z - W / Z        dH / dx = -p (log p + H) = (-e x + e (log Z - H)) / Z

e x is taken from e alone, as e log e, which is 0 where e has underflowed.
"""

from __future__ import annotations

import torch
from torch import Tensor


def weighted_sum(exponentials: Tensor) -> Tensor:
    """sum of e x over the columns of a tile: [rows, columns] -> [rows]."""
    return -torch.special.entr(exponentials).sum(-1)


def moved(totals: Tensor, weighted: Tensor, below: Tensor, scale: Tensor) -> Tensor:
    """`weighted` of parts whose largest logit is `below` (at most 0) the largest of all, as it is above the latter;
    `scale` is exp(below). A part without columns has -inf there, and adds nothing."""
    return torch.where(scale > 0, scale * (weighted + below * totals), torch.zeros_like(scale))


def entropy(total: Tensor, weighted: Tensor) -> Tensor:
    """H of each row; never below 0, which rounding would allow."""
    return (total.log() - weighted / total).clamp(min=0)


def factors(grad: Tensor, total: Tensor, weighted: Tensor) -> Tensor:
    """What `gradient` multiplies by, [N, 2], of the gradient by H (over T) of each row."""
    over = grad / total
    return torch.stack([over, over * (total.log() - entropy(total, weighted))], 1)


def gradient(exponentials: Tensor, factors: Tensor) -> Tensor:
    """The gradient by the logits of a tile: [rows, columns], [rows, 2] -> [rows, columns]."""
    return torch.special.entr(exponentials).mul_(factors[:, :1]).addcmul_(exponentials, factors[:, 1:])
