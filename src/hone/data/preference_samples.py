"""Encoded preference rows: the tokens of the responses, and the samples made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hone.data.assistant_spans import common_length
from hone.data.chat import Encoded
from hone.data.preference_formats import PreferenceRow, UnusableRow
from hone.types import Sample

CHOSEN, REJECTED, MISMATCHED = "chosen", "rejected", "mismatched"
"""The last part of a sample's id."""


@dataclass(frozen=True)
class EncodedPreference:
    """The tokens and targets of a row's one or two responses, each with the prompt in front, in small arrays."""

    tokens: list[np.ndarray]
    masks: list[np.ndarray]
    prefix: int
    """The number of tokens of the prompt, which the responses share."""
    labels: tuple[str, ...]
    margin: float
    truncated: bool
    altered: bool = False
    score: float | None = None

    @classmethod
    def of(cls, row: PreferenceRow, responses: Sequence[Encoded]) -> EncodedPreference:
        """Encode a row. Raises UnusableRow if truncation leaves nothing of a response, or makes both the same."""
        if not all(response.has_target for response in responses):
            raise UnusableRow("truncated")
        first = min(response.mask.index(True) for response in responses)
        if len(responses) == 2:
            if responses[0].tokens == responses[1].tokens:
                raise UnusableRow("identical")
            first = min(first, common_length(responses[0].tokens, responses[1].tokens))
        return cls(
            [np.array(response.tokens, dtype=np.int32) for response in responses],
            [np.array(response.mask, dtype=bool) for response in responses],
            first,
            (CHOSEN, REJECTED) if len(responses) == 2 else (CHOSEN if row.desirable else REJECTED,),
            row.margin,
            any(response.truncated for response in responses),
            any(response.findings for response in responses),
            row.score,
        )

    def samples(self, name: str) -> list[Sample]:
        """The responses as samples of one unit."""
        scored = {"score": self.score} if self.score is not None else {}
        return [
            Sample(
                f"{name}:{label}",
                torch.from_numpy(tokens.astype(np.int64)),
                torch.from_numpy(mask.copy()),
                sequence_columns={"label": 1.0 if label == CHOSEN else -1.0, "margin": self.margin} | scored,
                group=name,
                prefix=self.prefix,
                unit=name,
            )
            for label, tokens, mask in zip(self.labels, self.tokens, self.masks, strict=True)
        ]

    def __len__(self) -> int:
        return sum(map(len, self.tokens))


def with_other_response(sample: Sample, other: Sample, max_length: int | None) -> Sample:
    """A sample's prompt with another sample's response, truncated to `max_length` tokens."""
    no_targets = torch.zeros(sample.prefix, dtype=torch.bool)
    return Sample(
        f"{sample.unit}:{MISMATCHED}",
        torch.cat([sample.tokens_T[: sample.prefix], other.tokens_T[other.prefix :]])[:max_length],
        torch.cat([no_targets, other.loss_mask_T[other.prefix :]])[:max_length],
    )
