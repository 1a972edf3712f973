"""Sampling for rows that differ in their settings and in how many tokens they have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hone.engine.local.decoding_row import DecodingRow, check_finite
from hone.engine.local.sampling import LogitConstraints, sample, uniform
from hone.types import Sampling


@dataclass(frozen=True)
class Draw:
    """A token to sample for a row, after its text and some drafts."""

    row: DecodingRow
    drafts: tuple[int, ...] = ()

    @property
    def position(self) -> int:
        """The token's index in the completion."""
        return len(self.row.tokens) + len(self.drafts)


class RowSampler:
    """Samples draws from a model's logits. Tokens from `vocabulary_limit` on are never sampled."""

    def __init__(
        self, model: PreTrainedModel, stop_tokens: Iterable[int], vocabulary_limit: int | None
    ) -> None:
        self.model, self.stop_tokens, self.vocabulary_limit = model, tuple(stop_tokens), vocabulary_limit

    def stops(self, sampling: Sampling) -> set[int]:
        """The tokens that end a completion."""
        return {*(() if sampling.ignore_eos else self.stop_tokens), *sampling.stop_token_ids}

    def sample(self, draws: Sequence[Draw], logits: Tensor) -> tuple[list[int], list[float]]:
        """A token and its log-probability for each draw, from its row of `logits` [draws, vocabulary].

        Raises ModelError for logits that are not finite.
        """
        tokens = torch.zeros(len(draws), dtype=torch.long)
        logprobs = torch.zeros(len(draws))
        groups: dict[tuple[Sampling, bool], list[int]] = {}
        for number, draw in enumerate(draws):
            below_minimum = draw.position < draw.row.sampling.min_new_tokens
            groups.setdefault((draw.row.sampling_kind, below_minimum), []).append(number)
        for (sampling, below_minimum), members in groups.items():
            own = [draws[number] for number in members]
            rows = logits if len(own) == len(draws) else logits[members]
            seeds = torch.tensor([draw.row.seed for draw in own])
            positions = torch.tensor([draw.position for draw in own])
            constraints = self._constraints(own, sampling, below_minimum, rows)
            found, values = sample(rows, uniform(seeds, positions), sampling, constraints)
            check_finite(self.model, [draw.row for draw in own], values, logits.dtype)
            tokens[members], logprobs[members] = found.cpu(), values.cpu()
        return tokens.tolist(), logprobs.tolist()

    def _constraints(
        self, draws: Sequence[Draw], sampling: Sampling, below_minimum: bool, logits: Tensor
    ) -> LogitConstraints:
        seen = suppressed = None
        if sampling.repetition_penalty != 1.0:
            seen = torch.zeros(logits.shape, dtype=torch.bool)
            for number, draw in enumerate(draws):
                seen[number, [*draw.row.prompt.tokens, *draw.row.tokens, *draw.drafts]] = True
            seen = seen.to(logits.device)
        if below_minimum:
            suppressed = torch.tensor(sorted(self.stops(sampling)), dtype=torch.long, device=logits.device)
        return LogitConstraints(seen, suppressed, self.vocabulary_limit)
