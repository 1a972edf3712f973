"""Confidence intervals and paired tests for scores between 0 and 1.

The unit of analysis is the problem: several answers to one problem are a cluster, and only problems are taken to be
independent (Miller, "Adding Error Bars to Evals", arXiv 2411.00640). Shapes: `_P` one value for each problem.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z = 1.959963984540054
"""Standard normal quantile of a 95% interval."""
RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A mean over problems with its clustered standard error and 95% interval."""

    mean: float
    stderr: float
    low: float
    high: float
    problems: int


@dataclass(frozen=True)
class PairedTest:
    """Whether B differs from A on the same problems."""

    difference: float
    """Mean of B minus mean of A."""
    low: float
    high: float
    """95% percentile interval of the difference, by bootstrap over problems."""
    p_value: float
    method: str
    better: int
    """Problems on which B scores higher."""
    worse: int

    @property
    def differs(self) -> bool:
        """Whether the two-sided test rejects equality at the 5% level."""
        return self.p_value < 0.05


def estimate(scores: Sequence[Sequence[float]]) -> Estimate:
    """The mean score with a 95% interval, clustered by problem; `scores` has the values of each problem's answers.

    Wilson's interval with the effective number of answers n = p (1 - p) / SE², where SE is the clustered standard
    error. With one answer for each problem that is the number of problems, hence Wilson's own interval. Unlike mean ±
    1.96 SE it stays within [0, 1], and is not empty where all answers are right or all are wrong. Raises ValueError
    without problems.
    """
    if not scores:
        raise ValueError("there is no problem to estimate a mean from")
    means_P = np.array([sum(values) / len(values) for values in scores])
    problems, p = len(means_P), float(means_P.mean())
    stderr = float(means_P.std()) / math.sqrt(problems)
    answers = sum(map(len, scores))
    n = float(problems)
    if 0 < p < 1:
        n = min(max(p * (1 - p) / stderr**2, n), answers) if stderr > 0 else float(answers)
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    return Estimate(p, stderr, max(0.0, centre - half), min(1.0, centre + half), problems)


def mcnemar(better: int, worse: int) -> float:
    """Two-sided p-value of McNemar's exact test, from the problems that only one of two models answers right."""
    discordant = better + worse
    if not discordant:
        return 1.0
    tail = sum(math.comb(discordant, i) for i in range(min(better, worse) + 1)) / 2**discordant
    return min(1.0, 2 * tail)


def paired_test(a: Sequence[float], b: Sequence[float], seed: int = 0) -> PairedTest:
    """Compare two models by their scores on the same problems, in the same order.

    McNemar's exact test if all scores are 0 or 1; otherwise a paired bootstrap over problems (Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993): p is twice the fraction of resampled mean differences on the other side of 0.
    """
    if len(a) != len(b) or not len(a):
        raise ValueError(f"a paired test needs the same problems: {len(a)} and {len(b)} scores")
    difference_P = np.asarray(b, dtype=float) - np.asarray(a, dtype=float)
    better, worse = int((difference_P > 0).sum()), int((difference_P < 0).sum())
    resampled = _resampled_means(difference_P, seed)
    low, high = (float(x) for x in np.quantile(resampled, (0.025, 0.975)))
    if {*a, *b} <= {0, 1}:
        p_value, method = mcnemar(better, worse), "McNemar, exact"
    else:
        tail = min(float((resampled <= 0).mean()), float((resampled >= 0).mean()))
        p_value, method = min(1.0, max(2 * tail, 1 / RESAMPLES)), f"paired bootstrap, {RESAMPLES} resamples"
    return PairedTest(float(difference_P.mean()), low, high, p_value, method, better, worse)


def _resampled_means(values_P: np.ndarray, seed: int) -> np.ndarray:
    """Means of RESAMPLES draws with replacement. How often each distinct value is drawn is multinomial, which costs
    far less than drawing problems where scores are counts of few answers."""
    rng = np.random.default_rng(seed)
    distinct, counts = np.unique(values_P, return_counts=True)
    chunk = max(1, 2_000_000 // len(distinct))  # bounds the memory
    parts = [
        rng.multinomial(len(values_P), counts / counts.sum(), min(chunk, RESAMPLES - start)) @ distinct
        for start in range(0, RESAMPLES, chunk)
    ]
    return np.concatenate(parts) / len(values_P)
