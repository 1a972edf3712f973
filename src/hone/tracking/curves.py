"""Plots of a run: metrics.csv in, PNG out. matplotlib is imported at the first drawing, and without pyplot: no window
system, no global state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hone.files import replacing
from hone.tracking.catalogue import HELD_OUT, PANELS, Panel, reward_functions
from hone.tracking.metrics_csv import read_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Series = tuple[list[float], list[float]]
"""Steps and values of one metric, blanks left out."""

BLUE, ORANGE, GREEN, PURPLE, RED = "#2563eb", "#ea580c", "#059669", "#7c3aed", "#dc2626"
INK, SOFT, GRID = "#1f2937", "#6b7280", "#e5e7eb"
COLORS = (BLUE, ORANGE, GREEN, PURPLE, RED)
ACCENT = {
    "Gradient norm": PURPLE,
    "Learning rate": GREEN,
    "Completion length": GREEN,
    "KL to the reference": RED,
}
ONLINE = (
    "Reward, Accuracy, Reward by function, Completion length, Entropy, Pairs ranked right, KL to the reference, "
    "Gradient norm, Learning rate"
).split(", ")
SUPERVISED = (
    "Loss, Pairs ranked right, Accuracy, Margin of the chosen answer, Learning rate, Gradient norm".split(
        ", "
    )
)
MOST_PANELS = 6


@dataclass(frozen=True)
class Line:
    """A metric as a line: `noisy` ones are drawn raw and light under their smoothed mean."""

    metric: str
    label: str = ""
    color: str = BLUE
    noisy: bool = True
    points: bool = False


def panels_of(columns: Sequence[str]) -> list[Panel]:
    """The panels of a run with these metrics: those of reinforcement learning if there is a `reward`."""
    functions = reward_functions(columns)
    known = {**PANELS, functions.title: functions} if len(functions.metrics) > 1 else PANELS
    titles = ONLINE if "reward" in columns else SUPERVISED
    found = (known[title].restricted(columns) for title in titles if title in known)
    return [panel for panel in found if panel is not None]


def lines_of(panel: Panel) -> list[Line]:
    """A colour for each metric; held-out ones are points, which are not smoothed."""
    first = ACCENT.get(panel.title, BLUE)
    colors = cycle((first, *(color for color in COLORS if color not in (first, ORANGE))))
    return [
        Line(name, label, ORANGE, noisy=False, points=True)
        if name.startswith(HELD_OUT)
        else Line(name, label, next(colors), noisy=not name.endswith("learning_rate"))
        for name, label in panel.lines
    ]


def draw_curves(metrics_csv: Path, png: Path, title: str) -> bool:
    """Draw the curves of one run at 150 dpi; False, and no file, when there is nothing to draw yet."""
    data = load(metrics_csv)
    panels = panels_of(list(data))[:MOST_PANELS]
    if not panels:
        return False
    across = len(panels) if len(panels) <= 3 else math.ceil(len(panels) / 2)
    down = math.ceil(len(panels) / across)
    figure = new_figure(4.2 * max(across, 1) + 0.4, 2.9 * down + 0.6, title)
    grid = figure.subplots(down, across, squeeze=False).flatten()
    for axes, panel in zip(grid, panels, strict=False):
        draw_panel(axes, panel, data)
    for axes in grid[len(panels) :]:
        axes.remove()
    for axes in grid[max(0, len(panels) - across) : len(panels)]:
        axes.set_xlabel("step", fontsize=9, color=SOFT)
    save(figure, png)
    return True


def smoothed(values: Sequence[float], width: float) -> list[float]:
    """Gaussian moving average; `width` is the standard deviation in points. Symmetric, so the curve does not lag; at
    the ends, over the points that there are."""
    import numpy as np

    offsets = np.arange(-math.ceil(3 * width), math.ceil(3 * width) + 1)
    kernel = np.exp(-0.5 * (offsets / width) ** 2)
    middle = slice(len(offsets) // 2, len(offsets) // 2 + len(values))
    total = np.convolve(np.asarray(values, dtype=float), kernel)[middle]
    weight = np.convolve(np.ones(len(values)), kernel)[middle]
    return list((total / weight).tolist())


def load(path: Path) -> dict[str, Series]:
    """The metrics of a metrics.csv that have a finite value anywhere, in the order of its columns."""
    columns, rows = read_numbers(path)
    data: dict[str, Series] = {}
    for name in columns[1:]:
        if kept := [row for row in rows if name in row]:
            data[name] = ([row["step"] for row in kept], [row[name] for row in kept])
    return data


def new_figure(width: float, height: float, title: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.09, h_pad=0.09)  # type: ignore[union-attr, call-arg]
    figure.suptitle(title, fontsize=13, fontweight="bold", color=INK, x=0.012, ha="left")
    return figure


def save(figure: Figure, png: Path) -> None:
    with replacing(png) as temporary:
        figure.savefig(temporary, format="png")


def style(axes: Axes, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, fontsize=10.5, color=INK, loc="left")
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#9ca3af")
    axes.tick_params(colors=SOFT, labelsize=8.5, length=3)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))


def draw_panel(axes: Axes, panel: Panel, data: dict[str, Series]) -> None:
    from matplotlib.ticker import PercentFormatter

    style(axes, f"{panel.title} ({panel.unit})" if panel.unit else panel.title)
    drawn = [line for line in lines_of(panel) if line.metric in data]
    together = [value for line in drawn for value in data[line.metric][1]]
    if panel.percent and not all(0 <= value <= 1 for value in together):
        panel = replace(panel, percent=False)
    low, high = limits(panel, together)
    for line in drawn:
        steps, values = data[line.metric]
        draw_line(axes, line, steps, values, (low, high))
        if panel.percent:
            _mark_ends(axes, steps, values, line.color)
        _mark_cut(axes, steps, values, high, line.color)
    axes.margins(x=0.04 if panel.percent else 0.02)
    axes.set_ylim(low, high)
    if panel.percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    if len(drawn) > 1:
        axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)


def draw_line(
    axes: Axes, line: Line, steps: list[float], values: list[float], seen: tuple[float, float] | None = None
) -> None:
    """`seen`: the range of the axes. The moving average clips values to it, so that one spike stays one."""
    if line.noisy and len(values) >= 30:
        axes.plot(steps, values, color=line.color, linewidth=0.8, alpha=0.22)
        within = values if seen is None else [min(max(value, seen[0]), seen[1]) for value in values]
        values, mark = smoothed(within, len(values) / 50), None
    else:
        mark = "o" if line.points or len(values) < 3 else None
    axes.plot(steps, values, color=line.color, linewidth=1.9, marker=mark, markersize=4, label=line.label)


def _mark_ends(axes: Axes, steps: list[float], values: list[float], color: str) -> None:
    """Write the first and the last value above the line, or beside it where the line rises from that point."""
    last = len(values) - 1
    for i in sorted({0, last}):
        beside = values[1 if i == 0 else last - 1] > values[i] if last else False
        offset, side = ((8, -4), "left") if i == 0 else ((-8, -4), "right")
        where = (offset, side, "center") if beside else ((0, 7), "center", "baseline")
        _write(axes, f"{values[i]:.0%}", (steps[i], values[i]), *where, color=color, fontweight="bold")


def _mark_cut(axes: Axes, steps: list[float], values: list[float], high: float, color: str) -> None:
    """Mark where a spike leaves the axes, with its height."""
    top = max(values)
    if top <= high:
        return
    step = steps[values.index(top)]
    axes.plot([step], [high], marker="^", markersize=6, color=color, clip_on=False, zorder=5)
    offset, side = ((8, -3), "left") if step <= (steps[0] + steps[-1]) / 2 else ((-8, -3), "right")
    _write(axes, f"up to {top:.3g}", (step, high), offset, side, "center", color=color)


def _write(
    axes: Axes, text: str, at: tuple[float, float], offset: tuple[int, int], ha: str, va: str, **style: Any
) -> None:
    """A text beside a point of the data, `offset` points away."""
    axes.annotate(text, at, xytext=offset, textcoords="offset points", ha=ha, va=va, fontsize=8.5, **style)


def limits(panel: Panel, values: Sequence[float]) -> tuple[float, float]:
    """The range of the axis: percentages from 0 to at most 100; where a few spikes would flatten the rest, the range of
    98 % of the values."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    if panel.percent:
        return 0.0, min(1.09, max(0.1, high * 1.2))
    usual = ordered[int(0.98 * (len(ordered) - 1))]
    if len(ordered) >= 50 and high > low + 3 * (usual - low):
        high = low + 1.3 * (usual - low)
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    if panel.from_zero and low >= 0:
        return 0.0, high + margin
    return low - margin, high + margin
