"""From logits to tokens, with a random number for each row and position that depends on nothing else.

Each row has a seed; the draw at position t is a hash of (seed, t). A sequence is therefore the same whichever rows
share its batch, in whatever order rows finish, and after a restart: there is no generator state to save.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hone.model.counter_rng import counted, shift_right
from hone.types import Sampling


def uniform(seeds_B: Tensor, positions_B: Tensor) -> Tensor:
    """Uniform in [0, 1), fp64 [B]: SplitMix64 of seed and position."""
    return shift_right(counted(seeds_B, positions_B), 11).double() * 2.0**-53


@dataclass(frozen=True)
class LogitConstraints:
    """Constraints on the next token of each row of a batch, beside its sampling settings."""

    seen_BV: Tensor | None = None
    """Which tokens each row has already, prompt included: for repetition_penalty."""
    suppressed: Tensor | None = None
    """Tokens that cannot be sampled now: those that would end a row before its least length."""
    vocabulary_limit: int | None = None
    """Tokens from this number on are never sampled."""

    def apply(self, logits_BV: Tensor, penalty: float) -> Tensor:
        """The logits to sample from; `logits_BV` itself where no constraint is active."""
        if self.seen_BV is not None and penalty != 1.0:  # CTRL, arXiv 1909.05858 section 4.1
            less_BV = torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
            logits_BV = torch.where(self.seen_BV, less_BV, logits_BV)
        if self.suppressed is not None:
            logits_BV = logits_BV.index_fill(-1, self.suppressed, -torch.inf)
        if self.vocabulary_limit is not None and self.vocabulary_limit < logits_BV.shape[-1]:
            logits_BV = logits_BV.masked_fill(
                torch.arange(logits_BV.shape[-1], device=logits_BV.device) >= self.vocabulary_limit,
                -torch.inf,
            )
        return logits_BV


UNCONSTRAINED = LogitConstraints()


class ConstraintTracker:
    """Follows the constraints of a batch's rows, token by token. `stop_tokens` [E]: the tokens that end a row."""

    def __init__(self, sampling: Sampling, stop_tokens: Tensor, vocabulary_limit: int | None = None) -> None:
        self.sampling, self.stop_tokens, self.vocabulary_limit = sampling, stop_tokens, vocabulary_limit
        self.seen_BV: Tensor | None = None

    def begin(self, prompts: Sequence[Sequence[int]], vocabulary: int) -> None:
        """Start with rows that have these prompts."""
        if self.sampling.repetition_penalty != 1.0:
            seen_BV = torch.zeros(len(prompts), vocabulary, dtype=torch.bool)
            for row, prompt in enumerate(prompts):
                seen_BV[row, list(prompt)] = True
            self.seen_BV = seen_BV.to(self.stop_tokens.device)

    def at(self, step: int) -> LogitConstraints:
        """The constraints on the token of a step, counted from 0."""
        suppressed = self.stop_tokens if step < self.sampling.min_new_tokens else None
        return LogitConstraints(self.seen_BV, suppressed, self.vocabulary_limit)

    def add(self, tokens_B: Tensor) -> None:
        """Append a token to every row."""
        if self.seen_BV is not None:
            self.seen_BV.scatter_(1, tokens_B[:, None], True)

    def keep(self, index: Tensor) -> None:
        """Drop all rows but these."""
        if self.seen_BV is not None:
            self.seen_BV = self.seen_BV[index]


def sample(
    logits_BV: Tensor, draws_B: Tensor, sampling: Sampling, constraints: LogitConstraints = UNCONSTRAINED
) -> tuple[Tensor, Tensor]:
    """Tokens [B] and their log-probabilities [B]: fp32, of softmax(logits / temperature), the model's own distribution.
    Top-k, top-p, min-p, a penalty and `constraints` do not change the log-probabilities.

    Inverse transform sampling: the first token at which the cumulative probability passes the draw. `draws_B` may be
    on another device.
    """
    logits_BV = logits_BV.float()
    adjusted_BV = constraints.apply(logits_BV, sampling.repetition_penalty)
    if sampling.temperature == 0:
        logprobs_BV = logits_BV.log_softmax(-1)
        tokens_B = adjusted_BV.argmax(-1)
    else:
        logprobs_BV = _tempered(logits_BV, sampling.temperature).log_softmax(-1)
        own_BV = (
            logprobs_BV
            if adjusted_BV is logits_BV
            else _tempered(adjusted_BV, sampling.temperature).log_softmax(-1)
        )
        cumulative_BV = filtered(own_BV.exp(), sampling).cumsum(-1)
        total_B1 = cumulative_BV[:, -1:].contiguous()
        thresholds_B1 = draws_B[:, None].to(total_B1.dtype).to(total_B1.device) * total_B1
        tokens_B1 = torch.searchsorted(cumulative_BV, thresholds_B1, right=True)
        # A draw next to 1 can round up to the total: the last token that has any probability is meant.
        last_B1 = torch.searchsorted(cumulative_BV, total_B1, right=False)
        tokens_B = torch.minimum(tokens_B1, last_B1).squeeze(1)
        tokens_B = tokens_B.clamp(max=logits_BV.shape[-1] - 1)  # of nan; the log-probability says so
    return tokens_B, logprobs_BV.gather(1, tokens_B[:, None]).squeeze(1)


def _tempered(logits_BV: Tensor, temperature: float) -> Tensor:
    """To divide by 1 is a pass over the whole vocabulary that changes nothing."""
    return logits_BV if temperature == 1 else logits_BV / temperature


def filtered(probabilities_BV: Tensor, sampling: Sampling) -> Tensor:
    """Zero what top-k, then top-p, then min-p leave out. Ties at the border of top-k stay in."""
    size = probabilities_BV.shape[-1]
    if sampling.top_k is not None and 0 < sampling.top_k < size:
        border_B1 = probabilities_BV.topk(sampling.top_k, dim=-1).values[:, -1:]
        probabilities_BV = probabilities_BV.masked_fill(probabilities_BV < border_B1, 0.0)
    if sampling.top_p < 1.0:
        ordered_BV, order_BV = probabilities_BV.sort(dim=-1, descending=True)
        mass_BV = ordered_BV.cumsum(-1)
        outside_BV = mass_BV - ordered_BV >= sampling.top_p * mass_BV[:, -1:]
        probabilities_BV = probabilities_BV.scatter(1, order_BV, ordered_BV.masked_fill(outside_BV, 0.0))
    if sampling.min_p > 0:  # arXiv 2407.01082
        least_B1 = sampling.min_p * probabilities_BV.amax(-1, keepdim=True)
        probabilities_BV = probabilities_BV.masked_fill(probabilities_BV < least_B1, 0.0)
    return probabilities_BV
