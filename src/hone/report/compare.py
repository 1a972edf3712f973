"""Two runs side by side: their metrics, and the settings in which they differ."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from hone.config.nested import dotted, leaves
from hone.report.formatting import clean, number
from hone.report.panels import summary_metrics
from hone.report.run_view import RunView
from hone.report.terminal import head, plain_table

FOLDERS = ("checkpointing.checkpoint_dir", "logger.log_dir")
SHORT = 48
"""Characters of a setting's value that are shown."""


def compare(console: Console, left: RunView, right: RunView) -> None:
    """Print both runs' states, their best and last metrics, and the settings that differ."""
    for view in (left, right):
        head(console, view)
    both = (left, right)
    names = [view.name if left.name != right.name else str(view.folder.path) for view in both]
    present = list(dict.fromkeys([*left.metrics(), *right.metrics()]))
    table = plain_table("metric", *(f">{clean(name)}\n{at}" for at in ("best", "last") for name in names))
    for line in summary_metrics(present):
        values = [view.values(line.metrics[0].name)[1] for view in both]
        if not any(values):
            continue
        best = max if line.better > 0 else min
        cells = [number(best(found), line) if found and line.better else "" for found in values]
        cells += [number(found[-1], line) if found else "" for found in values]
        table.add_row(clean(line.title), *cells)
    console.print(table)
    differ, alone = differences(left, right)
    if alone:
        console.print(Text(f"\n{alone} settings are in one of the runs only", style="dim"))
    if not differ:
        console.print(Text("\nno setting that both have differs", style="dim"))
        return
    settings = plain_table("setting", *map(clean, names))
    for key, one, other in differ:
        settings.add_row(clean(key), clean(one), clean(other))
    console.print(Text("\nsettings that differ", style="bold"))
    console.print(settings)


def differences(left: RunView, right: RunView) -> tuple[list[tuple[str, str, str]], int]:
    """Settings that both have and that differ (key, and the value of each; the folders of the runs do not count), and
    the number of settings that only one has."""
    one, other = ({dotted(path): value for path, value in leaves(view.config)} for view in (left, right))
    differ = [
        (key, _shown(one[key]), _shown(other[key]))
        for key in one
        if key in other and one[key] != other[key] and key not in FOLDERS
    ]
    return differ, len(one.keys() ^ other.keys())


def _shown(value: object) -> str:
    text = clean("null" if value is None else str(value))
    return text if len(text) <= SHORT else f"{text[: SHORT - 1]}…"
