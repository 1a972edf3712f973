"""Settings of the run that a worker's functions read: the limits of sandboxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hone.rollout.sandbox import SandboxLimits

_settings: dict[str, Any] = {}


def update(settings: Mapping[str, Any]) -> None:
    """Take over the pool's settings, before a function is loaded."""
    _settings.update(settings)


def sandbox() -> SandboxLimits:
    """`rewards.sandbox`, or the defaults outside of a pool."""
    return SandboxLimits(**_settings.get("sandbox", {}))
