"""From logits to tokens, with a random number for each row and position that depends on nothing else.

Each row has a seed; the draw at position t is a hash of (seed, t). A sequence is therefore the same whichever rows
share its batch, in whatever order rows finish, and after a restart: there is no generator state to save.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from hone.types import Sampling


def row_seed(*parts: object) -> int:
    """A 63-bit seed from any printable parts (run seed, prompt id, number of the completion)."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _shift_right(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # int64 shifts keep the sign; a hash needs zeros


def uniform(seeds_B: Tensor, positions_B: Tensor) -> Tensor:
    """Uniform in [0, 1), fp64 [B]: SplitMix64's finaliser (Steele et al. 2014) of seed + position * golden gamma."""
    x = seeds_B + (positions_B + 1) * -7046029254386353131
    x = (x ^ _shift_right(x, 30)) * -4658895280553007687
    x = (x ^ _shift_right(x, 27)) * -7723592293110705685
    x = x ^ _shift_right(x, 31)
    return _shift_right(x, 11).double() * 2.0**-53


def sample(logits_BV: Tensor, draws_B: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Tokens [B] and their log-probabilities [B] (fp32, of softmax(logits / temperature) before top-k and top-p).

    Inverse transform sampling: the first token at which the cumulative probability passes the draw. `draws_B` may be
    on another device.
    """
    logits_BV = logits_BV.float()
    if sampling.temperature == 0:
        logprobs_BV = logits_BV.log_softmax(-1)
        tokens_B = logits_BV.argmax(-1)
    else:
        logprobs_BV = (logits_BV / sampling.temperature).log_softmax(-1)
        cumulative_BV = _filtered(logprobs_BV.exp(), sampling).cumsum(-1)
        total_B1 = cumulative_BV[:, -1:].contiguous()
        thresholds_B1 = draws_B[:, None].to(total_B1.dtype).to(total_B1.device) * total_B1
        tokens_B1 = torch.searchsorted(cumulative_BV, thresholds_B1, right=True)
        # A draw next to 1 can round up to the total: the last token that has any probability is meant.
        last_B1 = torch.searchsorted(cumulative_BV, total_B1, right=False)
        tokens_B = torch.minimum(tokens_B1, last_B1).squeeze(1)
        tokens_B = tokens_B.clamp(max=logits_BV.shape[-1] - 1)  # of nan; the log-probability says so
    return tokens_B, logprobs_BV.gather(1, tokens_B[:, None]).squeeze(1)


def _filtered(probabilities_BV: Tensor, sampling: Sampling) -> Tensor:
    """Zero what top-k and then top-p leave out. Ties at the border of top-k stay in."""
    size = probabilities_BV.shape[-1]
    if sampling.top_k is not None and 0 < sampling.top_k < size:
        border_B1 = probabilities_BV.topk(sampling.top_k, dim=-1).values[:, -1:]
        probabilities_BV = probabilities_BV.masked_fill(probabilities_BV < border_B1, 0.0)
    if sampling.top_p < 1.0:
        ordered_BV, order_BV = probabilities_BV.sort(dim=-1, descending=True)
        mass_BV = ordered_BV.cumsum(-1)
        outside_BV = mass_BV - ordered_BV >= sampling.top_p * mass_BV[:, -1:]
        probabilities_BV = probabilities_BV.scatter(1, order_BV, ordered_BV.masked_fill(outside_BV, 0.0))
    return probabilities_BV
