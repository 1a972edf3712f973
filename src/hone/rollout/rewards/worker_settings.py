"""Settings of the run that reward functions read in a worker: the limits of sandboxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hone.rollout.sandbox import SandboxLimits

_settings: dict[str, Any] = {}


def update(settings: Mapping[str, Any]) -> None:
    """Set the pool's settings, before a function is loaded."""
    _settings.update(settings)


def sandbox() -> SandboxLimits:
    """`rewards.sandbox`; the defaults outside a pool."""
    return SandboxLimits(**_settings.get("sandbox", {}))
