"""The sandbox that tests of programs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hone.rollout.sandbox import IsolationError, Sandbox, SandboxLimits

LIMITS = SandboxLimits(timeout_s=5.0, memory_mb=256, max_processes=12, disk_mb=8, output_kb=64)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """One with its namespaces; without them the test is skipped."""
    box = Sandbox(LIMITS)
    try:
        box.start()
    except IsolationError as error:
        pytest.skip(str(error))
    with box:
        yield box
