"""Two machines (two raylets here): one goes and the run goes on with the other; one comes and is used."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_runs import STEPS, TWO_MACHINES, Machines, finish, output_of, start, until_step
from processes import metric_rows, steps_of


@pytest.fixture
def machines() -> Iterator[Machines]:
    found = Machines()
    yield found
    found.close()


def until_said(run: Path, text: str, process: subprocess.Popen[str], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while text not in output_of(run):
        assert process.poll() is None, output_of(run)
        assert time.monotonic() < deadline, output_of(run)
        time.sleep(0.1)


@pytest.mark.long
@pytest.mark.slow
def test_a_machine_goes_and_another_comes(tmp_path: Path, machines: Machines) -> None:
    alone = tmp_path / "alone"
    one = ("cluster.cpu_workers_per_node=null",)
    more = f"sft.max_num_steps={3 * STEPS}"
    finish(start(alone, *one, more), alone)
    run = tmp_path / "run"
    process = start(run, *TWO_MACHINES, f"cluster.ray_address={machines.address}", more)
    until_step(run, 4, process)
    machines("lose")
    until_said(run, "1 of 2 machines are missing", process)
    machines("join")
    until_said(run, "more machines after step", process)
    finish(process, run)
    assert "2 ranks = shard 2 on 2 machines" in output_of(run).split("more machines after step")[1]
    assert steps_of(run)[-1] == 3 * STEPS
    ours, theirs = (
        [(int(row["step"]), float(row["train_loss"])) for row in metric_rows(folder) if row["train_loss"]]
        for folder in (run, alone)
    )
    assert [step for step, _ in ours] == list(range(1, 3 * STEPS + 1)), "each step once"
    for (_, loss), (_, expected) in zip(ours, theirs, strict=True):
        assert loss == pytest.approx(expected, rel=1e-3)
