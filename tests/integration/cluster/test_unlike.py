"""Machines that cannot work together: the run stops before a model loads."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from cluster_runs import TWO_MACHINES, Machines, finish, output_of, start

import hone


def hidden(folder: Path) -> list[str]:
    """Before a command: it sees an empty folder in this one's place."""
    return ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none "{folder}" && exec "$@"', "sh"]


def can_hide(folder: Path) -> bool:
    try:
        return subprocess.run([*hidden(folder), "true"], capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.slow
def test_another_version_of_hone(tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(Path(hone.__file__).parent, other / "hone")
    source = other / "hone" / "version.py"
    source.write_text(source.read_text().replace(hone.__version__, "0.0.7"))
    assert "0.0.7" in source.read_text()
    machines = Machines(PYTHONPATH=str(other))
    try:
        run = tmp_path / "run"
        finish(start(run, *TWO_MACHINES, f"cluster.ray_address={machines.address}"), run, code=1)
    finally:
        machines.close()
    error = output_of(run).strip().splitlines()[-1]
    assert error.startswith("error: rank 0 on ")
    assert f"has hone 0.0.7, this process {hone.__version__}: install the same version" in error
    assert not list(run.glob("step_*"))


@pytest.mark.slow
def test_no_shared_folder(tmp_path: Path) -> None:
    run = tmp_path / "results" / "run"
    run.parent.mkdir()
    if not can_hide(run.parent):
        pytest.skip("needs the right to mount")
    machines = Machines(*hidden(run.parent))
    try:
        finish(start(run, *TWO_MACHINES, f"cluster.ray_address={machines.address}"), run, code=1)
    finally:
        machines.close()
    error = output_of(run).strip().splitlines()[-1]
    assert f"does not see checkpointing.checkpoint_dir={run}: name a folder that all machines share" in error
