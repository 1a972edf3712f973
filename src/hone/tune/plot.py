"""The picture of a search: what each trial reached, and how that goes with each parameter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hone.tracking.curves import BLUE, GRID, INK, ORANGE, RED, SOFT
from hone.tune import results
from hone.tune.settings import Search
from hone.tune.space import Parameter, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 3
LOOKS = {"COMPLETE": ("o", BLUE, "done"), "PRUNED": ("v", ORANGE, "stopped early")}


def draw(search: Search, study: Any, path: Path) -> None:
    """Write the PNG: value by trial, then by each parameter."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = 1 + len(search.parameters)
    columns = min(COLUMNS, panels)
    rows = -(-panels // columns)
    figure = Figure(figsize=(4.6 * columns, 3.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    cells = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in cells[panels:]:
        spare.set_axis_off()
    best = results.best_trial(study)
    _by_trial(cells[0], search, study, best)
    for axes, parameter in zip(cells[1:], search.parameters, strict=False):
        _by_parameter(axes, parameter, study, best)
    for axes in cells[:panels]:
        _dress(axes, search.column)
    counts = results.summary(search, study)
    figure.suptitle(
        f"hone tune {search.kind}: {counts['trials']} trials, {counts['pruned']} stopped early, "
        f"{counts['failed']} failed; best {search.column} {counts['value']:.4g} (trial {counts['best']})",
        color=INK,
        fontsize=11,
    )
    figure.savefig(path, dpi=120)


def _by_trial(axes: Axes, search: Search, study: Any, best: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    for state, (marker, color, label) in LOOKS.items():
        found = [(t.number, results.value_of(t)) for t in study.trials if t.state.name == state]
        found = [(number, value) for number, value in found if value is not None]
        if found:
            x, y = zip(*found, strict=True)
            axes.scatter(x, y, marker=marker, color=color, label=label, s=28, zorder=3)
    failed = [t.number for t in study.trials if t.state.name == "FAIL"]
    if failed:
        axes.scatter(
            failed,
            [0.02] * len(failed),
            marker="x",
            color=RED,
            label="failed",
            transform=axes.get_xaxis_transform(),
        )
    steps: list[int] = []
    so_far: list[float] = []
    better = max if search.maximize else min
    for trial in study.trials:
        if trial.state.name == "COMPLETE":
            steps.append(trial.number)
            so_far.append(better([trial.value, *so_far[-1:]]))
    axes.step(steps, so_far, where="post", color=SOFT, linewidth=1.2, label="best so far")
    axes.scatter(
        [best.number], [best.value], s=110, facecolors="none", edgecolors=INK, linewidths=1.4, zorder=4
    )
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8, frameon=False)


def _by_parameter(axes: Axes, parameter: Parameter, study: Any, best: Any) -> None:
    for state, (marker, color, _) in LOOKS.items():
        found = [
            (t.params[parameter.key], results.value_of(t))
            for t in study.trials
            if t.state.name == state and parameter.key in t.params
        ]
        found = [(where, value) for where, value in found if value is not None]
        if found:
            x, y = zip(*found, strict=True)
            axes.scatter(x, y, marker=marker, color=color, s=28, zorder=3)
    axes.scatter(
        [best.params[parameter.key]],
        [best.value],
        s=110,
        facecolors="none",
        edgecolors=INK,
        linewidths=1.4,
        zorder=4,
    )
    axes.set_xlabel(parameter.key)
    if parameter.kind in ("log", "logint"):
        axes.set_xscale("log")
    if parameter.kind == "choice":
        names = [shown(value) for value in parameter.values]
        axes.set_xticks(range(len(names)), names, rotation=0 if max(map(len, names)) < 8 else 20)
        axes.set_xlim(-0.5, len(names) - 0.5)


def _dress(axes: Axes, column: str) -> None:
    axes.set_ylabel(column)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=8, colors=INK)
