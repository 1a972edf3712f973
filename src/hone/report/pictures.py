"""The pictures of a run that ends: curves.png and report.html."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from hone.errors import ReportError
from hone.report.page import write_report
from hone.tracking import RunFolder, draw_curves


def draw_run(folder: RunFolder, title: str) -> list[str]:
    """Draw both from what is on the disk; a sentence for each that failed.

    Both can be made again at any time, so a run whose pictures fail has not failed.
    """
    problems = []
    for path, draw in (
        (folder.curves, partial(draw_curves, folder.metrics, folder.curves, title)),
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
    except Exception as error:  # a defect of a picture, or of what draws it, is none of the training
        why = str(error).strip().splitlines()
        raise ReportError(
            f"{path} could not be made ({type(error).__name__}{': ' + why[0] if why else ''}). The run is not "
            f"touched by that; `hone show {path.parent} --html` makes the page again"
        ) from error
