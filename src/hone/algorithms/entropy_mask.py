"""Training on the tokens of highest entropy (arXiv 2506.01939 section 5: the top 20 %).

    threshold = the (1 - share) quantile of the entropies of all target tokens of the global batch
    a token takes part in the policy loss where its entropy reaches it; denominators still count every token

Computed before the backward, with the weights before the update, so that micro-batches and ranks change nothing.
Shapes: `_N` target tokens of a global batch, `_T` of one sequence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hone.types import Learner, Sample


async def mark(learner: Learner, samples: Sequence[Sample], share: float) -> dict[str, float]:
    """Give each sample of a global batch the token column `high_entropy`: 1 where a token is trained on, else 0.

    Returns the mean entropy, the threshold, and the part of the tokens above it (more than `share` where many tie).
    """
    entropies = await learner.entropies(samples)
    every_N = torch.cat(list(entropies)).double()
    threshold = quantile(every_N, 1 - share)
    for sample, entropy_T in zip(samples, entropies, strict=True):
        sample.token_columns["high_entropy"] = (entropy_T.double() >= threshold).float()
    return {
        "entropy": float(every_N.mean()),
        "entropy_threshold": threshold,
        "high_entropy_share": float((every_N >= threshold).double().mean()),
    }


def quantile(values_N: Tensor, share: float) -> float:
    """As torch.quantile (linear interpolation), which is limited to 16 million values."""
    ordered_N = values_N.sort().values
    position = share * (len(ordered_N) - 1)
    below = math.floor(position)
    low, high = ordered_N[below], ordered_N[min(below + 1, len(ordered_N) - 1)]
    return float(low + (position - below) * (high - low))
