"""The cache of rows of different lengths: every row finds its own keys, whatever joins, grows and leaves."""

from __future__ import annotations

import random

import pytest
import torch
from tiny import make_model
from torch import Tensor

from hone.engine.local.ragged_cache import CachedRow, RaggedCache

CPU = torch.device("cpu")


def make_cache(budget: int, context: int = 512) -> RaggedCache:
    return RaggedCache(make_model().config, budget=budget, context=context, additive_mask=True)


def keys_of(row: CachedRow, cache: RaggedCache, layer: int) -> Tensor:
    """[length] the first number of each key of a row."""
    return cache.layers[layer].slabs[row.width][0][row.slot, 0, : row.length, 0]


@pytest.mark.parametrize(
    ("tokens", "width"), [(1, 64), (64, 64), (65, 96), (97, 128), (129, 192), (300, 384), (511, 500)]
)
def test_widths_are_at_most_half_as_much_again(tokens: int, width: int) -> None:
    assert make_cache(10_000, context=500).width_for(tokens) == width


def test_rows_keep_their_keys_as_others_come_and_go() -> None:
    """Each written key is its row's number and position."""
    generator = random.Random(0)
    cache, held = make_cache(4096), {}
    numbers = iter(range(1000))
    for _ in range(60):
        if held and generator.random() < 0.3:
            cache.remove(held.pop(generator.choice(list(held))))
        while len(held) < 4 and (row := cache.add(generator.choice([3, 70, 130]))) is not None:
            held[next(numbers)] = row
        new = {row: generator.choice([1, 1, 5, 40]) for row in held.values()}
        for row, count in new.items():
            assert cache.grow(row, row.length + count)
        index = cache.begin_step(new, CPU)
        assert sorted(at for each in index.values() for at in each) == list(range(sum(new.values())))
        written = torch.zeros(sum(new.values()))
        for number, row in held.items():
            written[index[row]] = torch.arange(row.length, row.length + new[row]) + 1000.0 * number
        for layer in range(2):
            states = written[None, None, :, None].expand(1, 2, -1, 8)
            cache.cache.update(states, states, layer)
        for number, row in held.items():
            row.length += new[row]
            for layer in range(2):
                assert torch.equal(
                    keys_of(row, cache, layer), torch.arange(float(row.length)) + 1000.0 * number
                )
        for number in [number for number, row in held.items() if row.length > 400]:
            cache.remove(held.pop(number))


def test_a_row_that_does_not_fit_the_budget_is_refused() -> None:
    cache = make_cache(64 + 96)
    first, second = cache.add(10), cache.add(70)
    assert first is not None
    assert second is not None
    assert cache.add(1) is None
    assert not cache.grow(first, 65)
    cache.remove(second)
    assert cache.grow(first, 65)
    assert cache.allocated <= 64 + 96
    assert cache.rows_in_use == 1


def test_a_slab_without_rows_is_freed() -> None:
    cache = make_cache(10_000)
    rows = [cache.add(10) for _ in range(3)]
    cache.reserve([70, 70, 70])
    assert cache.slots[96] >= 3
    for row in rows:
        assert row is not None
        assert cache.grow(row, 70)
    assert cache.slots[64] == 0
    assert cache.rows_in_use == 3
