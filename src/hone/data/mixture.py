"""The order in which rows are drawn: one or several datasets, shuffled anew each epoch, resumable anywhere.

The state is a few counters, so saving it costs nothing and resuming it is exact: the order is a pure
function of (lengths, weights, shuffle, seed) and of how many rows were drawn.

*One dataset.* Epoch e is a permutation of its rows that depends on (seed, e) alone. `next` runs over the
border into the next epoch, so that no row is dropped; with `max_epochs` the last batch is shorter, and
after it comes [].

*Several datasets.* After any number n of draws, dataset i was drawn within one draw of n·w_i/Σw times
(Tijdeman's quota sequence, "The chairman assignment problem", 1980): every batch has the proportions asked
for, with no luck involved. Each dataset walks through permutations of its own, so one that is drawn more
often than it has rows starts its next pass early. One epoch is Σ lengths draws. With no weights given they
are the lengths: then an epoch visits each row of each dataset exactly once.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import lcm
from typing import Any

import numpy as np

from hone.errors import CheckpointError, DataError

Draw = tuple[int, int, int]
"""(dataset index, row index in that dataset, pass over that dataset, from 0)."""


def permutation(length: int, seed: int, *stream: int) -> np.ndarray:
    """A seeded permutation of range(length), one for each `stream` of numbers.

    It sorts raw Philox words, whose values numpy guarantees over its versions; `Generator.permutation` is not
    covered by that guarantee (NEP 19), and a run may be resumed after an upgrade.
    """
    sequence = np.random.SeedSequence(seed % 2**64, spawn_key=stream)
    return np.argsort(np.random.Philox(sequence).random_raw(length), kind="stable")


class Mixture:
    """An endless (or `max_epochs` long) seeded order over the rows of one or several datasets."""

    def __init__(
        self,
        lengths: Sequence[int],
        weights: Sequence[float] | None = None,
        shuffle: bool = True,
        seed: int = 0,
        max_epochs: int | None = None,
    ) -> None:
        """`weights` need not add up to 1; None means: by length. Raises DataError (no rows, weight 0)."""
        self.lengths = [int(n) for n in lengths]
        if not self.lengths or min(self.lengths) < 1:
            raise DataError(f"a dataset to draw from has no rows (rows by dataset: {self.lengths})")
        weights = list(self.lengths if weights is None else weights)
        if len(weights) != len(self.lengths) or min(weights) <= 0:
            raise DataError(f"each dataset needs a weight above 0, got {weights}")
        self.shuffle, self.seed, self.max_epochs = shuffle, seed, max_epochs
        self.epoch_length = sum(self.lengths)
        # Exact whole-number shares: no rounding can make two machines disagree about the order.
        shares = [Fraction(repr(float(w))) for w in weights]
        scale = lcm(*(s.denominator for s in shares))
        self.shares = [int(s * scale) for s in shares]
        self._counts = [0] * len(self.lengths)
        self._orders: list[tuple[int, np.ndarray] | None] = [None] * len(self.lengths)

    @property
    def draws(self) -> int:
        """How many rows were drawn since the start of the run."""
        return sum(self._counts)

    @property
    def epoch(self) -> int:
        """Whole epochs completed."""
        return self.draws // self.epoch_length

    def next(self, n: int) -> list[Draw]:
        """The next n draws; fewer where `max_epochs` ends, then []."""
        if self.max_epochs is not None:
            n = min(n, self.max_epochs * self.epoch_length - self.draws)
        return [self._draw() for _ in range(n)]

    def _draw(self) -> Draw:
        dataset = self._choose()
        epoch, position = divmod(self._counts[dataset], self.lengths[dataset])
        self._counts[dataset] += 1
        return dataset, self._row(dataset, epoch, position), epoch

    def _choose(self) -> int:
        """Which dataset is next: of those that are due, the one that would first fall a whole draw behind."""
        k = len(self.shares)
        if k == 1:
            return 0
        total, time, slack = sum(self.shares), self.draws + 1, 2 * k - 2
        best, best_deadline = -1, Fraction(0)
        for i, share in enumerate(self.shares):
            behind = share * time - self._counts[i] * total  # in units of 1/total draws
            if behind * slack < total:
                continue
            deadline = Fraction(total * (slack - 1) - behind * slack, share)
            if best < 0 or deadline < best_deadline:
                best, best_deadline = i, deadline
        return best

    def _row(self, dataset: int, epoch: int, position: int) -> int:
        if not self.shuffle:
            return position
        order = self._orders[dataset]
        if order is None or order[0] != epoch:
            order = (epoch, permutation(self.lengths[dataset], self.seed, dataset, epoch))
            self._orders[dataset] = order
        return int(order[1][position])

    def state_dict(self) -> dict[str, Any]:
        return {
            "counts": list(self._counts),
            "lengths": list(self.lengths),
            "shares": list(self.shares),
            "shuffle": self.shuffle,
            "seed": self.seed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state` was taken. Raises CheckpointError when the datasets are others."""
        names = {
            "lengths": "rows of the datasets",
            "shares": "weights of the datasets",
            "shuffle": "data.shuffle",
            "seed": "seed",
        }
        for key, name in names.items():
            if state[key] != getattr(self, key):
                raise CheckpointError(
                    f"the checkpoint was written with other data: {name} then {state[key]}, now "
                    f"{getattr(self, key)}. Bring the old data settings back, or start a new run in another "
                    "checkpointing.checkpoint_dir"
                )
        self._counts = [int(c) for c in state["counts"]]
