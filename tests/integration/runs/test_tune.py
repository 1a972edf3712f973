"""`hone tune` with real runs of the embedded model."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster_runs import Machines
from processes import ENVIRONMENT, command, hone, succeeded

pytest.importorskip("optuna")
pytestmark = pytest.mark.slow

SFT = ("sft.max_num_steps=12", "sft.val_period=4", "sft.val_batches=2", "checkpointing.save_period=4")
SEARCH = (
    "-m",
    "hone",
    "tune",
    "sft",
    "--folder",
    "study",
    "policy.optimizer.kwargs.lr=choice(1e-6, 2e-3)",
    *SFT,
)


def table(place: Path) -> dict[str, dict[str, str]]:
    with (place / "study" / "trials.csv").open() as file:
        return {row["policy.optimizer.kwargs.lr"]: row for row in csv.DictReader(file)}


def test_the_better_of_two_learning_rates_is_found_and_can_be_trained_with(tmp_path: Path) -> None:
    ended = succeeded(command(*SEARCH, cwd=tmp_path, timeout=500))
    rows = table(tmp_path)
    assert float(rows["0.002"]["val_loss"]) < float(rows["1e-06"]["val_loss"]) - 1
    assert "0 failed: the best is trial" in ended.out
    again = succeeded(hone("sft", "--config", "study/best.yaml", cwd=tmp_path))
    assert "done at step 12/12" in again.out
    kept = [path.parent.name for path in (tmp_path / "study").glob("trial_*/step_12")]
    assert kept == [f"trial_{int(rows['0.002']['trial']):04d}"]
    # The run with the best settings is the best trial's, to the bit.
    files = [tmp_path / "study" / name / "metrics.csv" for name in ("best", kept[0])]
    losses = [[row["val_loss"] for row in csv.DictReader(file.open())] for file in files]
    assert losses[0] == losses[1]


def test_a_killed_search_goes_on_from_its_trials_checkpoints(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, *SEARCH],
        cwd=tmp_path,
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.DEVNULL,
    )
    give_up = time.monotonic() + 300
    while not list((tmp_path / "study").glob("trial_0000/step_4")):
        assert time.monotonic() < give_up
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    succeeded(command(*SEARCH, cwd=tmp_path, timeout=500))
    log = (tmp_path / "study" / "trial_0000" / "log.txt").read_text()
    assert "resumed from" in log or "is a finished run" in log
    assert {row["state"] for row in table(tmp_path).values()} == {"done"}


@pytest.mark.long
def test_trials_beside_each_other_on_a_ray_cluster(tmp_path: Path) -> None:
    """Two trials of two ranks each, on two machines of two: the values are those of one process."""
    alone = succeeded(command(*SEARCH, cwd=tmp_path, timeout=500))
    assert "0 failed" in alone.out
    machines = Machines(cpus=2)
    try:
        where = ("cluster.cpu_workers_per_node=2", f"cluster.ray_address={machines.address}")
        (tmp_path / "ray").mkdir()
        there = tmp_path / "ray"
        succeeded(command(*SEARCH, "--parallel", "2", *where, cwd=there, timeout=500))
    finally:
        machines.close()
    for rate, row in table(there).items():
        assert float(row["val_loss"]) == pytest.approx(float(table(tmp_path)[rate]["val_loss"]), rel=1e-3)
        folder = there / "study" / f"trial_{int(row['trial']):04d}"
        assert "2 ranks = shard 2 on 1 machine" in (folder / "log.txt").read_text()
