"""A plot of the same training under several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hone.tracking import curves
from hone.tracking.catalogue import PANELS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_seeds(
    metrics_csvs: Sequence[Path],
    png: Path,
    before_after: Sequence[tuple[float, float]],
    *,
    title: str,
    seeds: Sequence[int] | None = None,
    first_stage: tuple[str, Path] | None = None,
) -> None:
    """Draw the same training under several seeds: reward over steps, and held-out accuracy before and after.

    before_after: accuracies in [0, 1], one pair for each run. `first_stage` adds the loss of the run that came before:
    its name and its metrics.csv.
    """
    names = [f"seed {seed}" for seed in (seeds if seeds is not None else range(len(metrics_csvs)))]
    widths = [1.1, 1.5, 1.0] if first_stage is not None else [1.5, 1.0]
    figure = curves.new_figure(4.1 * sum(widths), 4.0, title)
    axes_list = list(figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0])
    if first_stage is not None:
        axes, (name, metrics_csv) = axes_list.pop(0), first_stage
        curves.draw_panel(
            axes, replace(PANELS["Loss"], title=f"{name}: loss", from_zero=True), curves.load(metrics_csv)
        )
        axes.set_xlabel("step", fontsize=9, color=curves.SOFT)
    _draw_rewards(axes_list[0], [curves.load(path) for path in metrics_csvs], names)
    _draw_before_after(axes_list[1], before_after, names)
    curves.save(figure, png)


def _draw_rewards(axes: Axes, runs: Sequence[dict[str, curves.Series]], names: Sequence[str]) -> None:
    curves.style(axes, "Training reward (mean of each step's rollouts)")
    axes.set_xlabel("step", fontsize=9, color=curves.SOFT)
    for index, (data, name) in enumerate(zip(runs, names, strict=True)):
        if "reward" in data:
            curves.draw_line(
                axes, curves.Line("reward", name, curves.COLORS[index % len(curves.COLORS)]), *data["reward"]
            )
    axes.margins(x=0.02)
    axes.legend(frameon=False, fontsize=8.5, labelcolor=curves.INK, loc="lower right")


def _draw_before_after(axes: Axes, pairs: Sequence[tuple[float, float]], names: Sequence[str]) -> None:
    """An arrow for each seed from the accuracy before to that after, with the points gained."""
    from matplotlib.ticker import MultipleLocator, PercentFormatter

    curves.style(axes, "Held-out accuracy, before → after")
    for row, (before, after) in enumerate(pairs):
        color = curves.COLORS[row % len(curves.COLORS)]
        arrow = {"arrowstyle": "-|>", "color": color, "linewidth": 2.2, "shrinkA": 5, "shrinkB": 0}
        axes.annotate("", xy=(after, row), xytext=(before, row), arrowprops=arrow)
        axes.plot([before], [row], "o", color="white", markeredgecolor=color, mew=1.8, markersize=7)
        _above(axes, before, row, f"{before:.0%}", ha="right" if after >= before else "left")
        _above(axes, after, row, f"{after:.0%}", ha="left" if after >= before else "right")
        gain = f"{100 * (after - before):+.0f} points"
        _above(axes, (before + after) / 2, row, gain, ha="center", fontweight="bold", color=color)
    axes.set_yticks(range(len(pairs)), names)
    axes.set_ylim(len(pairs) - 0.5, -0.6)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_locator(MultipleLocator(0.25))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", labelsize=9, length=0, labelcolor=curves.INK)


def _above(axes: Axes, x: float, y: float, text: str, **style_of_text: Any) -> None:
    look: dict[str, Any] = {"fontsize": 9, "color": curves.INK, "va": "bottom"} | style_of_text
    axes.annotate(text, (x, y), xytext=(0, 8), textcoords="offset points", **look)
