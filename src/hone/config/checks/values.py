"""What no setting may hold: text that is not UTF-8 or steers a terminal, numbers that no machine holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hone.config.nested import Path, dotted
from hone.errors import visible

LARGEST = 2**63 - 1
MOST_REFERENCES = 50
"""`${` in one value: more make the parser of interpolations recurse without end."""
FREE = ("stop_strings",)
"""Settings whose text is a model's, not a person's."""


def invalid_values(tree: Any, path: Path = ()) -> Iterator[str]:
    """A sentence for each key or value."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            where = (*path, str(key))
            if visible(str(key)) != str(key):
                yield f"{dotted(where)}: the name holds a control character, or is not UTF-8"
            else:
                yield from invalid_values(value, where)
    elif isinstance(tree, list):
        for index, item in enumerate(tree):
            yield from invalid_values(item, (*path, index))
    elif isinstance(tree, str) and visible(line_ends(tree)) != line_ends(tree) and not set(path) & set(FREE):
        yield f"{dotted(path)}={tree[:40]}: the text holds a control character, or is not UTF-8"
    elif isinstance(tree, str) and tree.count("${") > MOST_REFERENCES:
        yield f"{dotted(path)}: its value has more than {MOST_REFERENCES} interpolations"
    elif isinstance(tree, int) and not isinstance(tree, bool) and abs(tree) > LARGEST:
        digits = f"{tree:.3e}" if abs(tree) < 10**300 else "a number of more than 300 digits"
        yield f"{dotted(path)}={digits}: expected a number below 2^63"


def line_ends(text: str) -> str:
    """Windows' line ends, which are no attack, as everybody's."""
    return text.replace("\r\n", "\n")
