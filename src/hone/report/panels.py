"""The panels of a run: those of the catalogue, its reward functions, a step's time, and metrics that are in none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hone.tracking import catalogue
from hone.tracking.catalogue import NOT_DRAWN, SECTIONS, Metric, Panel, reward_functions


def sections_of(columns: Sequence[str]) -> list[tuple[str, list[Panel]]]:
    """The panels of a run with these metrics, by section. No panel is empty; a metric is in one panel at most."""
    functions = reward_functions(columns)
    seconds = [name for name in columns if name.startswith("seconds_")]
    times = Panel("A step's time", tuple(Metric(n, "", n.removeprefix("seconds_").replace("_", " ")) for n in seconds),
                  unit="seconds", stacked=True)  # fmt: skip
    added = {"Learning": [functions] if len(functions.metrics) > 1 else [], "Speed": [times]}
    sections = [
        (title, [found for panel in (*panels[:1], *added.get(title, ()), *panels[1:])
                 if (found := panel.restricted(columns)) is not None])
        for title, panels in SECTIONS.items()
    ]  # fmt: skip
    placed = {metric.name for _, panels in sections for panel in panels for metric in panel.metrics}
    placed |= NOT_DRAWN | {metric.name for metric in functions.metrics}
    rest = [name for name in columns if name not in placed | {"step"} and not name.startswith("failed_")]
    further = [
        Panel(catalogue.panel_title(n), (Metric(n, catalogue.meaning(n) or ""),), from_zero=False)
        for n in rest
    ]
    sections.append(("Further metrics", further))
    return [(title, panels) for title, panels in sections if panels]


def summary_metrics(columns: Sequence[str]) -> list[Panel]:
    """A panel of one metric for each metric of a summary, titled by the metric."""
    return [
        replace(panel, title=panel.title + (f", {metric.label}" if metric.label and len(panel.metrics) > 1 else ""),
                metrics=(metric,))
        for _, panels in sections_of(columns)
        for panel in panels
        for metric in panel.metrics
    ]  # fmt: skip
