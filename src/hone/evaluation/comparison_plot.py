"""The picture of a comparison: every model's score, and the differences from the baseline, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hone.evaluation.comparison import Comparison
from hone.evaluation.statistics import Estimate
from hone.tracking.curves import BLUE, COLORS, INK, ORANGE, SOFT, new_figure, save, style


def draw_comparison(
    baseline: str, scores: Mapping[str, Mapping[str, Estimate]], comparisons: Sequence[Comparison], png: Path
) -> None:
    """`scores`: of each model, the baseline first, by suite. Left: scores in the order given, so that checkpoints of
    one run make a curve. Right: the difference of each comparison; one whose interval is far from 0 is coloured."""
    from matplotlib.ticker import PercentFormatter

    figure = new_figure(10.0, max(3.6, 1.9 + 0.34 * len(comparisons)), f"Compared with {baseline}")
    left, right = figure.subplots(1, 2)
    style(left, "Score, with its 95% interval")
    suites = list(dict.fromkeys(suite for found in scores.values() for suite in found))
    for number, suite in enumerate(suites):
        shown = [(i, found[suite]) for i, found in enumerate(scores.values()) if suite in found]
        at = [i + 0.12 * (number - (len(suites) - 1) / 2) for i, _ in shown]
        means = [one.mean for _, one in shown]
        bars = [[one.mean - one.low for _, one in shown], [one.high - one.mean for _, one in shown]]
        color = COLORS[number % len(COLORS)]
        left.errorbar(at, means, yerr=bars, fmt="o-", color=color, label=suite, capsize=3, linewidth=1.2)
    left.set_xticks(range(len(scores)), [_short(name) for name in scores], fontsize=8.5)
    left.set_ylim(0, 1)
    left.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    left.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    style(right, "Difference from the baseline, with its 95% interval")
    right.axvline(0, color=SOFT, linewidth=1)
    for row, one in enumerate(reversed(comparisons)):
        color = (BLUE if one.test.difference > 0 else ORANGE) if one.differs else SOFT
        right.plot([one.test.low, one.test.high], [row, row], color=color, linewidth=2)
        right.plot([one.test.difference], [row], "o", color=color)
    names = [f"{_short(one.model)}\n{one.suite}" for one in reversed(comparisons)]
    right.set_yticks(range(len(comparisons)), names, fontsize=8.5)
    right.set_ylim(-0.6, len(comparisons) - 0.4)
    right.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    right.set_xlabel("grey: not significant at the 5% level", fontsize=9, color=SOFT)
    save(figure, png)


def _short(name: str) -> str:
    return name if len(name) <= 22 else f"…{name[-21:]}"
