"""An encoded comparison: the tokens of its sides, and the samples that they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hone.data.assistant_spans import common_length
from hone.data.chat import Encoded
from hone.data.preference_formats import Comparison, Unusable
from hone.types import Sample

CHOSEN, REJECTED, MISMATCHED = "chosen", "rejected", "mismatched"
"""The last part of a sample's id."""


@dataclass(frozen=True)
class StoredSides:
    """An encoded row, kept small: the tokens and targets of its one or two sides."""

    tokens: list[np.ndarray]
    masks: list[np.ndarray]
    prefix: int
    """Tokens of the prompt, which the sides have in common."""
    labels: tuple[str, ...]
    margin: float
    truncated: bool
    altered: bool = False
    """The rendering of a side does not say, or train on, all that the row says."""
    score: float | None = None

    @classmethod
    def of(cls, row: Comparison, sides: Sequence[Encoded]) -> StoredSides:
        """Raises Unusable for sides that truncation left nothing of, or made the same."""
        if not all(side.has_target for side in sides):
            raise Unusable("truncated")
        first = min(side.mask.index(True) for side in sides)
        if len(sides) == 2:
            if sides[0].tokens == sides[1].tokens:
                raise Unusable("identical")
            first = min(first, common_length(sides[0].tokens, sides[1].tokens))
        return cls(
            [np.array(side.tokens, dtype=np.int32) for side in sides],
            [np.array(side.mask, dtype=bool) for side in sides],
            first,
            (CHOSEN, REJECTED) if len(sides) == 2 else (CHOSEN if row.desirable else REJECTED,),
            row.margin,
            any(side.truncated for side in sides),
            any(side.findings for side in sides),
            row.score,
        )

    def samples(self, name: str) -> list[Sample]:
        """The sides, as a unit."""
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


def joined(sample: Sample, other: Sample, most: int | None) -> Sample:
    """A sample's prompt with another's answer, cut to `most` tokens."""
    blank = torch.zeros(sample.prefix, dtype=torch.bool)
    return Sample(
        f"{sample.unit}:{MISMATCHED}",
        torch.cat([sample.tokens_T[: sample.prefix], other.tokens_T[other.prefix :]])[:most],
        torch.cat([blank, other.loss_mask_T[other.prefix :]])[:most],
    )
