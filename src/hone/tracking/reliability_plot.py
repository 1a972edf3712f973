"""The reliability diagram of a reward model: bins in, PNG out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hone.tracking.curves import BLUE, INK, ORANGE, SOFT, new_figure, save, style


def draw_reliability(
    bins: Sequence[tuple[float, float, int]],
    gaps: Sequence[float],
    png: Path,
    *,
    title: str,
    calibration_error: float,
) -> None:
    """Left: the share of pairs ranked right against the model's confidence, beside the diagonal of a calibrated model.
    Right: a histogram of `gaps`, the chosen score less the rejected score of each pair.

    `bins`: mean confidence, share ranked right, and number of pairs of each.
    """
    from matplotlib.ticker import PercentFormatter

    figure = new_figure(9.2, 3.9, title)
    left, right = figure.subplots(1, 2)
    style(left, f"Ranked right, by confidence (calibration error {calibration_error:.3f})")
    left.plot([0.5, 1], [0.5, 1], color=SOFT, linewidth=1, linestyle="--", label="as sure as right")
    total = sum(count for _, _, count in bins)
    sizes = [24 + 700 * count / total for _, _, count in bins]
    confidence, accuracy = [one for one, _, _ in bins], [one for _, one, _ in bins]
    left.plot(confidence, accuracy, color=BLUE, linewidth=1.4, alpha=0.6)
    label = "pairs (area: how many)"
    left.scatter(confidence, accuracy, s=sizes, color=BLUE, alpha=0.75, linewidths=0, label=label)
    left.set_xlabel("confidence: sigmoid of the difference", fontsize=9, color=SOFT)
    left.set_xlim(0.48, 1.03)
    left.set_ylim(min(0.4, *accuracy) - 0.05, 1.06)
    for axis in (left.xaxis, left.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axis.get_major_locator().set_params(integer=False)
    legend = left.legend(frameon=False, fontsize=8.5, labelcolor=INK, loc="lower right")
    for handle in legend.legend_handles:
        if handle is not None and hasattr(handle, "set_sizes"):
            handle.set_sizes([40])
    style(right, "Score of the chosen answer less the rejected one's")
    wrong, edges = [gap for gap in gaps if gap <= 0], _edges(gaps)
    right.hist([gap for gap in gaps if gap > 0], bins=edges, color=BLUE, alpha=0.8, label="right")
    right.hist(wrong, bins=edges, color=ORANGE, alpha=0.8, label="wrong")
    right.axvline(0, color=SOFT, linewidth=1)
    right.set_xlabel("difference", fontsize=9, color=SOFT)
    right.set_ylabel("pairs", fontsize=9, color=SOFT)
    right.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    save(figure, png)


def _edges(gaps: Sequence[float], count: int = 32) -> list[float]:
    """Edges of bins of one width, 0 among them, so that no bin holds right and wrong pairs."""
    widest = max((abs(gap) for gap in gaps), default=1.0) or 1.0
    width = 2 * widest / count
    below = int(-(-max(0.0, -min(gaps, default=0.0)) // width))
    above = int(-(-max(0.0, max(gaps, default=0.0)) // width))
    return [step * width for step in range(-below, max(above, 1) + 1)]
