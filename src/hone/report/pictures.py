"""What is drawn when a run ends: curves.png, timeline.png and report.html."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from hone.errors import ReportError
from hone.report.page import write_report
from hone.tracking import RunFolder, draw_curves
from hone.tracking.timeline_plot import draw_timeline


def draw_run(folder: RunFolder, title: str) -> list[str]:
    """Draw them from the files of the run; returns a message for each that failed. All can be made again at any time,
    so that a failure here is not one of the run."""
    problems = []
    for path, draw in (
        (folder.curves, partial(draw_curves, folder.metrics, folder.curves, title)),
        (folder.timeline_picture, partial(draw_timeline, folder.timeline, folder.timeline_picture, title)),
        (folder.report, partial(write_report, folder.path)),
    ):
        try:
            _attempt(path, draw)
        except ReportError as error:
            problems.append(str(error))
    return problems


def _attempt(path: Path, draw: Callable[[], object]) -> None:
    try:
        draw()
    except Exception as error:  # matplotlib's or ours: a defect of a plot is not one of the training
        why = str(error).strip().splitlines()
        raise ReportError(
            f"{path} could not be made ({type(error).__name__}{': ' + why[0] if why else ''}). The run is not "
            f"affected; `hone show {path.parent} --html` makes the page again"
        ) from error
