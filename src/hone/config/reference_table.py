"""The table of all keys, for docs/configuration.md."""

from __future__ import annotations

from hone.config import keys
from hone.config.loading import files
from hone.config.schema import ROOTS
from hone.config.schema.base import derived_expression


def markdown_table(algorithm: str) -> str:
    """A Markdown table of every key of `hone KIND`, with its default and what it means, by section."""
    root = ROOTS[algorithm]
    lines: list[str] = []
    section = None
    for key, field, owner in keys.all_keys(root):
        top = key.partition(".")[0]
        if top != section:
            section = top
            lines += ["", f"### {algorithm}: `{section}`", "", "| key | default | meaning |", "|---|---|---|"]
        default = derived_expression(owner, key.rpartition(".")[2])
        if default is None:
            value = field.get_default(call_default_factory=True)
            default = files.dump([value]).strip()[2:] if not isinstance(value, list | dict) else str(value)
        meaning = " ".join((field.description or "").split()).replace("|", "\\|")
        lines.append(f"| `{key}` | `{default}` | {meaning} |")
    return "\n".join(lines).lstrip("\n") + "\n"
