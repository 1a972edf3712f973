"""Sampling: exact frequencies, and draws that are uniform and independent of one another."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch

from hone.engine.local.sampling import sample, uniform
from hone.model.counter_rng import key_of
from hone.types import Sampling

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, 1.0, -3.0, 0.2])
DRAWS = 40_000


@cache
def draws(count: int = DRAWS, seed: int = 0) -> torch.Tensor:
    seeds = torch.tensor([key_of(seed, "row", i) for i in range(count)])
    return uniform(seeds, torch.zeros(count, dtype=torch.long))


def frequencies(sampling: Sampling) -> torch.Tensor:
    tokens, _ = sample(LOGITS.expand(DRAWS, -1), draws(), sampling)
    return torch.bincount(tokens, minlength=len(LOGITS)).double()


def chi_square(counts: torch.Tensor, expected: torch.Tensor) -> float:
    possible = expected > 0
    assert bool((counts[~possible] == 0).all()), "a token that is left out was drawn"
    return float(((counts - expected * DRAWS).square()[possible] / (expected * DRAWS)[possible]).sum())


def renormalised(probabilities: torch.Tensor, kept: list[int]) -> torch.Tensor:
    mask = torch.zeros(len(LOGITS), dtype=torch.float64)
    mask[kept] = 1
    return probabilities * mask / (probabilities * mask).sum()


P = LOGITS.double().softmax(0)
# In order of probability: tokens 0 (0.413), 1 and 5 (0.152 each), 2 (0.092), 7 (0.068), 3 (0.056), 4 (0.021), 6 (0.003)


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(1), P),
        (Sampling(1, temperature=0.5), (LOGITS.double() / 0.5).softmax(0)),
        (Sampling(1, top_k=4), renormalised(P, [0, 1, 5, 2])),
        (Sampling(1, top_k=2), renormalised(P, [0, 1, 5])),  # 1 and 5 tie at the border: both stay
        (Sampling(1, top_k=100), P),
        (
            Sampling(1, top_p=0.75),
            renormalised(P, [0, 1, 5, 2]),
        ),  # 0.413 + 0.152 + 0.152 = 0.717 is not yet 0.75
        (Sampling(1, top_p=0.4), renormalised(P, [0])),
        # top-k first: the five hold 0.877, of which 0.72 is 0.631, reached with 5. Of all, 0.72 would need token 2 too.
        (Sampling(1, top_k=5, top_p=0.72), renormalised(P, [0, 1, 5])),
    ],
)
def test_frequencies_are_the_exact_distribution(sampling: Sampling, expected: torch.Tensor) -> None:
    kept = int((expected > 0).sum())
    # mean of chi-square with k - 1 degrees of freedom is k - 1, its standard deviation sqrt(2 (k - 1))
    limit = (kept - 1) + 4 * math.sqrt(2 * max(kept - 1, 1))
    assert chi_square(frequencies(sampling), expected) < limit


def test_logprobs_are_of_the_whole_tempered_distribution() -> None:
    sampling = Sampling(1, temperature=0.5, top_k=2)
    tokens, logprobs = sample(LOGITS.expand(50, -1), draws(50), sampling)
    assert torch.allclose(logprobs, (LOGITS / 0.5).log_softmax(0)[tokens])


def test_greedy_takes_the_likeliest() -> None:
    tokens, logprobs = sample(
        LOGITS[None], torch.tensor([0.99], dtype=torch.float64), Sampling(1, temperature=0.0)
    )
    assert tokens.tolist() == [0]
    assert logprobs.item() == pytest.approx(math.log(float(P[0])), rel=1e-6)


@pytest.mark.parametrize("draw", [0.0, 1.0 - 2.0**-53, 0.5])
def test_extreme_draws_never_take_an_impossible_token(draw: float) -> None:
    logits = torch.tensor([[-float("inf"), 0.0, -float("inf"), 0.0, -float("inf")]])
    tokens, logprobs = sample(logits, torch.tensor([draw], dtype=torch.float64), Sampling(1))
    assert tokens.item() in (1, 3)
    assert logprobs.item() == pytest.approx(math.log(0.5))


def kolmogorov(values: torch.Tensor) -> float:
    """sqrt(n) times the largest gap between the empirical and the uniform distribution."""
    ordered = values.sort().values
    steps = torch.arange(1, len(values) + 1, dtype=torch.float64) / len(values)
    gap = torch.maximum((steps - ordered).abs(), (ordered - steps + 1 / len(values)).abs()).max()
    return float(gap) * math.sqrt(len(values))


KOLMOGOROV_1_IN_1000 = 1.95


def test_draws_are_uniform_over_rows() -> None:
    values = draws()
    assert values.dtype == torch.float64
    assert 0 <= float(values.min()) < 1e-3
    assert 1 - 1e-3 < float(values.max()) < 1
    assert kolmogorov(values) < KOLMOGOROV_1_IN_1000


def test_draws_are_uniform_over_positions_of_one_row() -> None:
    values = uniform(torch.full((DRAWS,), key_of(1, "p", 0)), torch.arange(DRAWS))
    assert kolmogorov(values) < KOLMOGOROV_1_IN_1000


def test_neighbouring_seeds_are_as_good_as_any() -> None:
    values = uniform(torch.arange(DRAWS), torch.zeros(DRAWS, dtype=torch.long))
    assert kolmogorov(values) < KOLMOGOROV_1_IN_1000


@pytest.mark.parametrize("lag", [1, 2, 7])
def test_draws_at_different_positions_are_independent(lag: int) -> None:
    """Of one row: correlation within four standard errors, and pairs even over a grid of 8 x 8."""
    values = uniform(torch.full((DRAWS,), key_of(3)), torch.arange(DRAWS))
    first, second = values[:-lag], values[lag:]
    correlation = float(torch.corrcoef(torch.stack([first, second]))[0, 1])
    assert abs(correlation) < 4 / math.sqrt(DRAWS)
    cells = torch.bincount((first * 8).long() * 8 + (second * 8).long(), minlength=64).double()
    expected = len(first) / 64
    assert float((cells - expected).square().sum() / expected) < 63 + 4 * math.sqrt(2 * 63)


def test_draws_of_different_rows_are_independent() -> None:
    a, b = draws(seed=0), draws(seed=1)
    assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 4 / math.sqrt(DRAWS)


def test_the_finaliser_is_splitmix64() -> None:
    """Steele et al. 2014, in plain integers of 64 bits."""
    seed, position, mask = key_of("any"), 5, (1 << 64) - 1
    x = (seed + (position + 1) * 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    x ^= x >> 31
    assert uniform(torch.tensor([seed]), torch.tensor([position])).item() == (x >> 11) * 2.0**-53


def test_keys_tell_their_parts_apart() -> None:
    assert key_of(1, "p", 0) == key_of(1, "p", 0)
    assert (
        len(
            {
                key_of(1, "p", 0),
                key_of(1, "p0"),
                key_of("1p", 0),
                key_of(1, "p", 1),
                key_of(2, "p", 0),
            }
        )
        == 5
    )
    assert all(0 <= key_of(i) < 1 << 63 for i in range(1000))
