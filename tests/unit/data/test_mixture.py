"""The order of rows: nothing dropped, exact proportions, bit-exact resume at any draw."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from hone.data.mixture import Mixture, permutation
from hone.errors import CheckpointError, DataError


def rows(draws):
    return [(d, r) for d, r, _ in draws]


def test_each_epoch_visits_every_row_once_in_another_order():
    mixture = Mixture([10], seed=3)
    epochs = [mixture.next(10) for _ in range(3)]
    for number, epoch in enumerate(epochs):
        assert sorted(r for _, r, _ in epoch) == list(range(10))
        assert {e for _, _, e in epoch} == {number}
    assert rows(epochs[0]) != rows(epochs[1]) != rows(epochs[2])


def test_without_shuffle_the_file_order_is_kept():
    drawn = Mixture([4], shuffle=False).next(6)
    assert drawn == [(0, 0, 0), (0, 1, 0), (0, 2, 0), (0, 3, 0), (0, 0, 1), (0, 1, 1)]


def test_last_batch_is_short_and_then_nothing():
    mixture = Mixture([5], max_epochs=2, seed=1)
    sizes = [len(mixture.next(4)) for _ in range(4)]
    assert sizes == [4, 4, 2, 0]
    assert mixture.next(1) == []
    assert mixture.epoch == 2


def test_batches_cross_the_epoch_border():
    mixture = Mixture([5], shuffle=False)
    assert [len(mixture.next(4)) for _ in range(5)] == [4] * 5
    assert mixture.epoch == 4


@pytest.mark.parametrize("weights", [[1, 1], [0.7, 0.3], [0.5, 0.3, 0.2], [5, 1, 1, 1, 0.25], [0.01, 0.99]])
def test_shares_are_never_off_by_a_draw(weights):
    mixture = Mixture([7] * len(weights), weights, seed=5)
    counts = np.zeros(len(weights))
    shares = np.array(weights) / sum(weights)
    for n in range(1, 700):
        counts[mixture.next(1)[0][0]] += 1
        assert np.abs(counts - shares * n).max() < 1


def test_without_weights_an_epoch_is_each_row_of_each_dataset_once():
    drawn = Mixture([3, 11, 6], seed=2).next(20)
    assert sorted(rows(drawn)) == [(d, r) for d, n in enumerate([3, 11, 6]) for r in range(n)]


def test_a_small_heavy_dataset_starts_its_next_pass_with_a_new_order():
    drawn = Mixture([4, 100], [1, 1], seed=0).next(16)
    first, second = ([r for d, r, e in drawn if d == 0 and e == p] for p in (0, 1))
    assert sorted(first) == sorted(second) == [0, 1, 2, 3]


@pytest.mark.parametrize(("lengths", "weights"), [([17], None), ([5, 9, 2], None), ([40, 7], [0.35, 0.65])])
def test_resume_is_exact_at_any_point(lengths, weights):
    whole = Mixture(lengths, weights, seed=9).next(200)
    generator = random.Random(0)
    for _ in range(30):
        cut = generator.randrange(200)
        mixture = Mixture(lengths, weights, seed=9)
        done = []
        while len(done) < cut:
            done += mixture.next(min(generator.randint(1, 13), cut - len(done)))
        resumed = Mixture(lengths, weights, seed=9)
        resumed.load_state_dict(json.loads(json.dumps(mixture.state_dict())))
        assert done + resumed.next(200 - cut) == whole


def test_seeds_and_streams_differ_and_the_order_is_pinned():
    assert rows(Mixture([50], seed=1).next(50)) != rows(Mixture([50], seed=2).next(50))
    assert permutation(8, 42, 0, 0).tolist() == PINNED


PINNED = [2, 3, 5, 0, 1, 6, 7, 4]


def test_state_of_other_data_is_refused():
    state = Mixture([10], seed=1).state_dict()
    with pytest.raises(CheckpointError, match=r"rows of the datasets then \[10\], now \[11\]"):
        Mixture([11], seed=1).load_state_dict(state)
    with pytest.raises(CheckpointError, match="seed then 1, now 2"):
        Mixture([10], seed=2).load_state_dict(state)


def test_bad_arguments():
    with pytest.raises(DataError, match="no rows"):
        Mixture([3, 0])
    with pytest.raises(DataError, match="above 0"):
        Mixture([3, 3], [1, 0])
