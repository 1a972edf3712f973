"""Aggregate the metrics of micro-batches over a global batch."""

from __future__ import annotations

import torch
from torch import Tensor

from hone.engine.distributed.collectives import RankGroup
from hone.types import LossOutput


class MetricSums:
    """Sums and maxima of metrics over a global batch. They stay on the device until `metrics` is called."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._largest: dict[str, Tensor] = {}
        self._losses: list[tuple[Tensor, list[str]]] = []

    def add(self, result: LossOutput, ids: list[str]) -> None:
        """Add the result of one micro-batch, whose samples have these ids."""
        self._losses.append((result.loss.detach(), ids))
        for name, part in {"loss": result.loss.detach(), **result.metrics}.items():
            self._sums[name] = self._sums[name] + part if name in self._sums else part
        for name, part in result.largest.items():
            self._largest[name] = torch.maximum(self._largest[name], part) if name in self._largest else part

    def metrics(self, ranks: RankGroup) -> dict[str, float]:
        """The metrics over all micro-batches of all ranks."""
        values = ranks.all_reduce_sum(torch.stack([value.float() for value in self._sums.values()])).tolist()
        found = dict(zip(self._sums, values, strict=True))
        if self._largest:
            most = ranks.all_reduce_max(
                torch.stack([value.float() for value in self._largest.values()])
            ).tolist()
            found |= dict(zip(self._largest, most, strict=True))
        return found

    def not_finite(self) -> list[list[str]]:
        """The ids of this rank's micro-batches whose loss is not finite."""
        return [ids for value, ids in self._losses if not torch.isfinite(value)]
