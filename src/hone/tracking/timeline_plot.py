"""The picture of who worked when in the last steps of an online run (`hone.rollout.timeline`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hone.files import read_json_object
from hone.tracking import curves

ACTORS = ("generator", "rewards", "learner")
COLORS = {
    "sampling": curves.BLUE,
    "scoring": curves.ORANGE,
    "training": curves.GREEN,
    "weight_sync": curves.PURPLE,
    "validation": curves.RED,
}
"""What is drawn, and how; the rest of the time an actor is idle."""


def draw_timeline(file: Path, png: Path, title: str) -> bool:
    """Draw the file that `Timeline` wrote; False if there is none."""
    steps = read_json_object(file).get("steps") if file.is_file() else None
    if not steps:
        return False
    from matplotlib.patches import Patch

    figure = curves.new_figure(10.5, 3.0, title)
    axes = figure.subplots()
    curves.style(axes, "Who worked when, in the last steps (white: idle)")
    begin, drawn = 0.0, set[str]()
    for step in steps:
        axes.axvline(begin, color=curves.SOFT, linewidth=0.8, linestyle="--")
        axes.text(
            begin + step["seconds"] / 2,
            -0.72,
            f"step {step['step']}",
            ha="center",
            fontsize=8.5,
            color=curves.SOFT,
        )
        for actor, part, start, end in step["spans"]:
            drawn.add(part)
            span = [(begin + start, end - start)]
            axes.broken_barh(span, (ACTORS.index(actor) - 0.32, 0.64), facecolors=COLORS[part], linewidth=0)
        begin += step["seconds"]
    axes.set_ylim(len(ACTORS) - 0.5, -0.95)
    axes.set_xlim(0, begin)
    axes.set_yticks(range(len(ACTORS)), ACTORS)
    axes.grid(False, axis="y")
    locator: Any = axes.xaxis.get_major_locator()
    locator.set_params(integer=False)
    axes.set_xlabel("seconds", fontsize=9, color=curves.SOFT)
    handles = [
        Patch(color=color, label=part.replace("_", " ")) for part, color in COLORS.items() if part in drawn
    ]
    look = {"frameon": False, "fontsize": 8.5, "labelcolor": curves.INK}
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1), **look)
    curves.save(figure, png)
    return True
