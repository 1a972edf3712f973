"""Settings that were given and have no effect, because of other settings. The user gets a notice with the reason.

A key in a section whose `enabled` is false is unused. `unused_table` and the algorithms list the others, each with the
condition under which it is read. `tests/unit/config/test_every_setting.py` checks that nothing is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from hone.config.checks.conditions import ConditionalSettings
from hone.config.checks.unused_table import conditional_settings
from hone.config.dependent_defaults.settings import Settings
from hone.config.nested import Path, dotted, without_indices
from hone.config.schema.base import derived_expression, fill_derived

KEPT = (
    "checkpointing.checkpoint_dir",
    "checkpointing.checkpoint_must_save_by",
    *(f"policy.generation.colocated.resources.{key}" for key in ("gpus_per_node", "num_nodes")),
)
"""Keys that are read although their section is not enabled."""


def unused(s: Settings) -> Iterator[tuple[str, Path]]:
    """(reason, path) of every given setting that differs from the schema's default and is not read."""
    for path in sorted(s.paths, key=dotted):
        reason = _reason(s, path)
        if reason is not None and not _is_default(s.config, path):
            yield reason, path


def _reason(s: Settings, path: Path) -> str | None:
    key = dotted(without_indices(path))
    if (switch := _switch(s.config, path)) is not None and key not in KEPT:
        return f"{switch} is off"
    for entry in conditional_settings(type(s.config)):
        if _names(entry, key, s.section) and not entry.condition(s):
            return entry.reason.format(section=s.section)
    return None


def _names(entry: ConditionalSettings, key: str, section: str) -> bool:
    patterns = [pattern.format(section=section) for pattern in entry.keys]
    return any(key == name or key.startswith(f"{name.removesuffix('.*')}.") for name in patterns)


def _switch(config: BaseModel, path: Path) -> str | None:
    """The `enabled` that is false, of a section around the path."""
    node: object = config
    for depth, part in enumerate(path[:-1]):
        node = getattr(node, str(part), None) if isinstance(node, BaseModel) else None
        if isinstance(node, BaseModel) and getattr(node, "enabled", True) is False:
            switch = (*path[: depth + 1], "enabled")
            return None if path == switch else dotted(switch)
    return None


def _is_default(config: BaseModel, path: Path) -> bool:
    """Whether it has the schema's default. A key of a free mapping, such as kwargs, never has."""
    node: Any = config
    for part in path[:-1]:
        if isinstance(node, list):
            node = node[part] if isinstance(part, int) else getattr(node[0], part, None)
        else:
            node = getattr(node, str(part), None)
    node = node[0] if isinstance(node, list) and node else node
    name = str(path[-1])
    if not isinstance(node, BaseModel) or name not in type(node).model_fields:
        return False
    if derived_expression(type(node), name) is not None:
        return bool(getattr(node, name) == _derived(config, path))
    return bool(getattr(node, name) == type(node).model_fields[name].get_default(call_default_factory=True))


def _derived(config: BaseModel, path: Path) -> Any:
    """What a derived key would be if it had not been given."""
    copy: Any = config.model_copy(deep=True)
    node = copy
    for part in path[:-1]:
        node = getattr(node, str(part))
    setattr(node, str(path[-1]), None)
    fill_derived(copy)
    return getattr(node, str(path[-1]))
