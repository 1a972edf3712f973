"""The plot of a search: the metric of each trial, by trial number and by each parameter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hone.tracking.curves import BLUE, INK, ORANGE, RED, SOFT, new_figure, save, style
from hone.tune.results import best_trial, summary, value_of
from hone.tune.settings import Search
from hone.tune.space import Parameter, format_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 3
MARKERS = {"COMPLETE": ("o", BLUE, "done"), "PRUNED": ("v", ORANGE, "stopped early")}


def draw(search: Search, study: Any, path: Path) -> None:
    """Write the PNG: one panel by trial number, one for each parameter. The study needs a completed trial."""
    panels = 1 + len(search.parameters)
    columns = min(COLUMNS, panels)
    rows = -(-panels // columns)
    counts = summary(search, study)
    title = (
        f"hone tune {search.algorithm}: {counts['trials']} trials, {counts['pruned']} stopped early, "
        f"{counts['failed']} failed; best {counts['metric']} {counts['value']:.4g} (trial {counts['best']})"
    )
    figure = new_figure(4.6 * columns, 3.6 * rows, title)
    cells = list(figure.subplots(rows, columns, squeeze=False).flat)
    for empty in cells[panels:]:
        empty.set_axis_off()
    for axes in cells[:panels]:
        style(axes, "")
        axes.set_ylabel(counts["metric"])
    best = best_trial(study)
    _draw_by_trial(cells[0], search, study, best)
    for axes, parameter in zip(cells[1:], search.parameters, strict=False):
        _draw_by_parameter(axes, parameter, study, best)
    save(figure, path)


def _draw_by_trial(axes: Axes, search: Search, study: Any, best: Any) -> None:
    _scatter(axes, study, best, lambda trial: trial.number)
    if failed := [trial.number for trial in study.trials if trial.state.name == "FAIL"]:
        bottom: dict[str, Any] = {"transform": axes.get_xaxis_transform()}
        axes.scatter(failed, [0.02] * len(failed), marker="x", color=RED, label="failed", **bottom)
    completed = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    best_so_far: list[float] = []
    for trial in completed:
        best_so_far.append((max if search.maximize else min)([trial.value, *best_so_far[-1:]]))
    numbers = [trial.number for trial in completed]
    axes.step(numbers, best_so_far, where="post", color=SOFT, linewidth=1.2, label="best so far")
    axes.set_xlabel("trial")
    axes.legend(fontsize=8, frameon=False)


def _draw_by_parameter(axes: Axes, parameter: Parameter, study: Any, best: Any) -> None:
    from matplotlib.ticker import AutoLocator

    axes.xaxis.set_major_locator(AutoLocator())
    _scatter(axes, study, best, lambda trial: trial.params.get(parameter.key))
    axes.set_xlabel(parameter.key)
    if parameter.distribution in ("log", "logint"):
        axes.set_xscale("log")
    if parameter.distribution == "choice":
        names = [format_value(value) for value in parameter.values]
        axes.set_xticks(range(len(names)), names, rotation=0 if max(map(len, names)) < 8 else 20)
        axes.set_xlim(-0.5, len(names) - 0.5)


def _scatter(axes: Axes, study: Any, best: Any, x_of: Callable[[Any], Any]) -> None:
    """A marker for each trial that has a value, and a ring around the best one."""
    for state, (marker, color, label) in MARKERS.items():
        found = [(x_of(t), value_of(t)) for t in study.trials if t.state.name == state]
        if found := [(x, value) for x, value in found if x is not None and value is not None]:
            x, y = zip(*found, strict=True)
            axes.scatter(x, y, marker=marker, color=color, label=label, s=28, zorder=3)
    ring: dict[str, Any] = {"facecolors": "none", "edgecolors": INK, "linewidths": 1.4}
    axes.scatter([x_of(best)], [best.value], s=110, zorder=4, **ring)
