"""The order in which rows are drawn: one or several datasets, shuffled anew each epoch, resumable at any draw.

The state is a few counters, so saving it costs nothing and resuming is exact: the order is a pure function of
(lengths, weights, shuffle, seed) and of the number of rows drawn.

*One dataset.* Epoch e is a permutation of its rows that depends on (seed, e) alone. `next` continues into the next
epoch, so that no row is dropped; with `max_epochs` the last batch is shorter, and [] follows it.

*Several datasets.* After any number n of draws, the number of draws from dataset i differs from n·w_i/Σw by less than
one (Tijdeman's quota sequence, "The chairman assignment problem", 1980): every batch has the given proportions, without
chance. Each dataset has its own permutations, so a dataset that is drawn more often than it has rows starts its next
pass early. One epoch is Σ lengths draws. Without weights, the weights are the lengths: an epoch then visits each row of
each dataset exactly once.
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
    """A seeded permutation of range(length), another one for each `stream`.

    It sorts raw Philox words, which numpy keeps the same in all versions. `Generator.permutation` has no such guarantee
    (NEP 19), and a run may be resumed after an upgrade.
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
        """`weights` need not sum to 1; None means by length. Raises DataError for no rows or a weight of 0."""
        self.lengths = [int(n) for n in lengths]
        if not self.lengths or min(self.lengths) < 1:
            raise DataError(f"a dataset has no rows to draw (rows by dataset: {self.lengths})")
        weights = list(self.lengths if weights is None else weights)
        if len(weights) != len(self.lengths) or min(weights) <= 0:
            raise DataError(f"each dataset needs a weight above 0, got {weights}")
        self.shuffle, self.seed, self.max_epochs = shuffle, seed, max_epochs
        self.epoch_length = sum(self.lengths)
        # Integer shares are exact: no rounding can make the order differ between machines.
        shares = [Fraction(repr(float(w))) for w in weights]
        scale = lcm(*(s.denominator for s in shares))
        self.shares = [int(s * scale) for s in shares]
        self._counts = [0] * len(self.lengths)
        self._orders: list[tuple[int, np.ndarray] | None] = [None] * len(self.lengths)

    @property
    def draws(self) -> int:
        """The number of rows drawn since the start of the run."""
        return sum(self._counts)

    @property
    def epoch(self) -> int:
        """The number of complete epochs drawn."""
        return self.draws // self.epoch_length

    def next(self, n: int) -> list[Draw]:
        """The next n draws; fewer at the end of `max_epochs`, then []."""
        if self.max_epochs is not None:
            n = min(n, self.max_epochs * self.epoch_length - self.draws)
        return [self._draw() for _ in range(n)]

    def _draw(self) -> Draw:
        dataset = self._choose()
        epoch, position = divmod(self._counts[dataset], self.lengths[dataset])
        self._counts[dataset] += 1
        return dataset, self._row(dataset, epoch, position), epoch

    def _choose(self) -> int:
        """The next dataset: of those that are due, the one that would first fall a whole draw behind."""
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
        """Resume exactly where `state` was taken. Raises CheckpointError if the datasets have changed."""
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
                    f"{getattr(self, key)}. Restore the old data settings, or start a new run in another "
                    "checkpointing.checkpoint_dir"
                )
        self._counts = [int(c) for c in state["counts"]]
