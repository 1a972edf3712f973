"""Runs on two ranks of a Ray cluster that Hone starts: what is lost is named and replaced, and the end is the same.

Kills at random moments, of a rank, the raylet and the driver, are in test_kills.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster_runs import RANDOM, STEPS, finish, output_of, processes_of, same_end, start, state_of, until_step
from processes import same


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("reference") / "run"
    finish(start(run), run)
    return run


@pytest.mark.slow
def test_a_killed_rank_is_named_and_replaced(tmp_path: Path, uninterrupted: Path) -> None:
    run = tmp_path / "run"
    process = start(run)
    until_step(run, RANDOM.randrange(4, STEPS // 2), process)
    victim = RANDOM.choice(processes_of(process, "ray::EngineWorker"))
    victim.kill()
    finish(process, run)
    assert f"pid {victim.pid} on" in output_of(run)
    assert "died" in output_of(run)
    assert "with new workers" in output_of(run)
    same_end(run, uninterrupted)
    same(state_of(run), state_of(uninterrupted), "state.pt")


@pytest.mark.long
@pytest.mark.slow
def test_a_hung_rank_is_named_and_replaced(tmp_path: Path, uninterrupted: Path) -> None:
    run = tmp_path / "run"
    process = start(run, "cluster.worker_timeout_s=8")
    until_step(run, 4, process)
    victim = processes_of(process, "ray::EngineWorker")[1]
    victim.suspend()
    finish(process, run)
    assert f"pid {victim.pid} on" in output_of(run)
    assert "made no progress for 8 s" in output_of(run)
    same_end(run, uninterrupted)


@pytest.mark.slow
def test_a_run_that_cannot_get_on_ends(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(run, "cluster.max_restarts=0")
    until_step(run, 1, process)
    processes_of(process, "ray::EngineWorker")[0].kill()
    finish(process, run, code=1)
    assert "error: rank" in output_of(run)
    assert "died" in output_of(run)
