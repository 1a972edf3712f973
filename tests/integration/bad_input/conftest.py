"""A model and data, and what every expected failure looks like."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import processes
import pytest
from processes import Ended, hone, workplace

SFT = (*processes.SFT, "sft.max_num_steps=3", "checkpointing.checkpoint_dir=run")
GRPO = (*processes.GRPO, "grpo.max_num_steps=3", "checkpointing.checkpoint_dir=run")


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return workplace(tmp_path_factory.mktemp("bad_input"))


def fails(
    *argv: str,
    cwd: Path,
    says: tuple[str, ...],
    code: int = 1,
    limits: dict[str, int] | None = None,
    lines: int = 1,
) -> Ended:
    """Run, and check that it ends with one message on stderr that has every one of these parts, and no traceback.

    The lines of a user's own reward function are no traceback of Hone's: `lines` allows for them.
    """
    ended = hone(*argv, cwd=cwd, limits=limits)
    assert ended.code == code, ended
    assert "src/hone" not in ended.err + ended.out, ended
    assert "Traceback" not in ended.err + ended.out or lines > 1, ended
    assert ended.err.startswith("error: "), ended
    assert 1 <= ended.err.count("\n") <= lines, ended.err
    assert len(ended.err) < 900, ended.err
    for part in says:
        assert part in ended.err, (part, ended.err)
    return ended


@contextlib.contextmanager
def disk(path: Path, size: str) -> Iterator[None]:
    """A file system of that size at `path`."""
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk takes root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture
def run_dir(place: Path, request: pytest.FixtureRequest) -> Path:
    """A folder of this test's own."""
    return place / "".join(c if c.isalnum() else "_" for c in request.node.name)
