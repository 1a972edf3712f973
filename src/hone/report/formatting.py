"""Numbers, sparklines and texts as the terminal shows them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from hone.tracking.catalogue import Panel
from hone.units import format_percent

BLOCKS = "▁▂▃▄▅▆▇█"
LONGEST = 6000
"""Characters of a text that are shown; the file has it whole."""


def number(value: float, line: Panel) -> str:
    """A value of a panel: shares in percent, others with four digits."""
    return format_percent(value) if line.percent else f"{value:.4g}"


def sparkline(values: Sequence[float], width: int = 20) -> str:
    """A line of at most `width` blocks: the mean of each part of the run."""
    width = min(width, len(values))
    edges = [round(i * len(values) / width) for i in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, span = min(means), max(means) - min(means)
    return "".join(BLOCKS[int((mean - low) / span * 7.999)] if span else BLOCKS[3] for mean in means)


def as_messages(value: Any, style: str) -> list[RenderableType]:
    """A text, or a conversation's messages with their roles."""
    if not isinstance(value, list):
        return [Text(clean(as_text(value)), style=style)]
    lines: list[RenderableType] = []
    for message in value:
        role = message.get("role") if isinstance(message, dict) else None
        content = message.get("content") if isinstance(message, dict) else message
        text = Text(style=style)
        if role is not None and (len(value) > 1 or role != "user") and not (len(value) == 1 and not style):
            text.append(clean(f"{role}: "), style="dim")
        text.append(clean(as_text(content)))
        if isinstance(message, dict) and message.get("tool_calls"):
            text.append(clean(f"\n{as_text(message['tool_calls'])}"), style="magenta")
        lines.append(text)
    return lines


def clean(text: str) -> str:
    """Text that is safe on a terminal: control characters are escaped, and the middle of a long text is cut."""
    text = cut_middle(text, LONGEST)
    return "".join(
        character if character in "\n\t" or character.isprintable() else f"\\x{ord(character):02x}"
        for character in text
    )


def cut_middle(text: str, longest: int) -> str:
    """The text, its middle replaced by the number of characters that it had if it is longer than `longest`."""
    half = longest // 2
    return (
        text
        if len(text) <= longest
        else f"{text[:half]} [… {len(text) - 2 * half} characters …] {text[-half:]}"
    )


def as_text(value: Any) -> str:
    """A text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
