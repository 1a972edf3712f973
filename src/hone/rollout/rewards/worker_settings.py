"""What a worker is told of the run: the limits of sandboxes. Set by the pool before a function is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hone.rollout.sandbox import SandboxLimits

_told: dict[str, Any] = {}


def tell(told: Mapping[str, Any]) -> None:
    """Take over what the pool says."""
    _told.update(told)


def sandbox() -> SandboxLimits:
    """`rewards.sandbox`, or the defaults where nobody has said anything."""
    return SandboxLimits(**_told.get("sandbox", {}))
