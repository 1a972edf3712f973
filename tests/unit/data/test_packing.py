"""Plans of micro-batches: complete, within budget, near the best possible."""

from __future__ import annotations

import random
from math import ceil

import pytest

from hone.data.packing import SampleTooLongError, by_tokens, fixed, packed


def cases():
    generator = random.Random(0)
    for _ in range(60):
        n = generator.randrange(0, 300)
        yield [generator.choice([generator.randint(1, 40), generator.randint(1, 512)]) for _ in range(n)]


def complete(plan, lengths):
    return sorted(i for part in plan for i in part) == list(range(len(lengths))) and all(plan)


def test_by_hand():
    lengths = [3, 9, 1, 7, 5]
    assert fixed(lengths, 2) == [[1, 3], [4, 0], [2]]
    assert by_tokens(lengths, 18) == [[1, 3], [4, 0, 2]]
    assert by_tokens(lengths, 18, round_to=8) == [[1], [3, 4], [0, 2]]
    assert packed(lengths, 10) == [[1, 2], [3, 0], [4]]


def test_properties():
    for lengths in cases():
        assert complete(fixed(lengths, 7), lengths)
        assert len(fixed(lengths, 7)) == ceil(len(lengths) / 7)
        plan = by_tokens(lengths, 1024, 64)
        assert complete(plan, lengths)
        assert all(len(p) * ceil(max(lengths[i] for i in p) / 64) * 64 <= 1024 for p in plan)
        bins = packed(lengths, 512)
        assert complete(bins, lengths)
        assert all(sum(lengths[i] for i in b) <= 512 for b in bins)
        assert len(bins) <= ceil(sum(lengths) / 512) * 11 / 9 + 1


def test_padding_is_small_on_a_long_tail():
    generator = random.Random(1)
    lengths = [int(generator.lognormvariate(4.5, 0.6)) + 1 for _ in range(512)]
    plan = by_tokens(lengths, 8192)
    padded = sum(len(p) * max(lengths[i] for i in p) for p in plan)
    assert padded < 1.35 * sum(lengths)
    assert len(packed(lengths, 2048)) <= ceil(sum(lengths) / 2048) + 1


def test_a_row_that_fits_only_before_rounding_goes_alone():
    assert by_tokens([98, 10], 100, round_to=64) == [[0], [1]]


@pytest.mark.parametrize("plan", [by_tokens, packed])
def test_one_sample_longer_than_the_budget(plan):
    with pytest.raises(SampleTooLongError, match=r"sample of 101 tokens .* of 100 tokens") as error:
        plan([5, 101], 100)
    assert error.value.index == 1
