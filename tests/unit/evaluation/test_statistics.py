"""Intervals that cover the truth, and paired tests that find what is there and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from hone.evaluation.statistics import estimate, mcnemar, paired_test


def test_one_answer_for_each_problem_gives_wilsons_interval():
    """7 of 10: Wilson's interval is [0.3968, 0.8922] (Brown, Cai and DasGupta 2001, equation 4)."""
    found = estimate([[1.0]] * 7 + [[0.0]] * 3)
    assert (found.mean, found.problems) == (0.7, 10)
    assert (found.low, found.high) == pytest.approx((0.39678, 0.89221), abs=1e-4)
    assert found.stderr == pytest.approx((0.7 * 0.3 / 10) ** 0.5)


def test_answers_that_repeat_each_other_do_not_narrow_the_interval():
    once = estimate([[1.0]] * 7 + [[0.0]] * 3)
    copied = estimate([[1.0] * 8] * 7 + [[0.0] * 8] * 3)
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))


def test_no_problem_solved_still_has_an_interval():
    found = estimate([[0.0, 0.0]] * 20)
    assert (found.mean, found.low) == (0.0, 0.0)
    assert 0.1 < found.high < 0.2


def test_intervals_cover_the_true_mean_in_95_of_100_draws():
    """Problems of unequal difficulty, 4 answers to each: treating answers as independent would cover far less."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        difficulty_P = rng.beta(0.5, 0.5, 100)  # mean 0.5
        found = estimate(rng.binomial(1, difficulty_P[:, None], (100, 4)).astype(float).tolist())
        covered += found.low <= 0.5 <= found.high
    assert 0.93 <= covered / 400 <= 0.98


def test_mcnemar_is_the_two_sided_binomial_test():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(8, 1) == pytest.approx(2 * (1 + 9) / 2**9)
    assert mcnemar(5, 5) == 1.0


def draws(rng: np.random.Generator, gain: float, answers: int) -> tuple[list[float], list[float]]:
    """Scores of two models on 500 problems that both find hard or easy; `gain` of the problems became solvable."""
    solved_P = (rng.random(500) < 0.4).astype(float)
    improved_P = solved_P.copy()
    improved_P[rng.permutation(np.flatnonzero(solved_P == 0))[: round(gain * 500)]] = 1.0
    flips = 0.02  # each answer is the opposite of what its problem says this often
    return tuple(  # type: ignore[return-value]
        np.abs(p[:, None] - (rng.random((500, answers)) < flips)).mean(axis=1).tolist()
        for p in (solved_P, improved_P)
    )


@pytest.mark.parametrize("answers", [1, 4])
def test_equal_models_are_not_different_in_95_of_100_draws(answers: int):
    rng = np.random.default_rng(1)
    different = sum(paired_test(*draws(rng, 0.0, answers)).differs for _ in range(100))
    assert different <= 5


@pytest.mark.parametrize("answers", [1, 4])
def test_five_points_on_500_problems_are_found(answers: int):
    rng = np.random.default_rng(2)
    found = [paired_test(*draws(rng, 0.05, answers)) for _ in range(50)]
    assert sum(test.differs and test.difference > 0 for test in found) >= 48


def test_the_method_follows_from_the_scores():
    assert paired_test([0, 1, 1], [1, 1, 0]).method == "McNemar, exact"
    shares = paired_test([0.25, 1, 0.5], [0.5, 1, 0.25])
    assert "bootstrap" in shares.method
    assert (shares.better, shares.worse) == (1, 1)


def test_scores_of_different_problems_are_refused():
    with pytest.raises(ValueError, match="2 and 1 scores"):
        paired_test([0, 1], [1])
