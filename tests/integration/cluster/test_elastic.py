"""Two machines (two raylets here): one goes and the run goes on with the other; one comes and is used."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import ENVIRONMENT, metric_rows, steps_of

from tests.integration.cluster.test_faults import STEPS, finish, said, start, until_step

TWO_MACHINES = ("cluster.cpu_workers_per_node=1", "cluster.num_nodes=2", "cluster.node_wait_s=3")


class Machines:
    """A Ray cluster whose machines come and go. Lives in a process of its own: Ray allows one cluster in each."""

    CODE = """
import os, sys
os.environ["RAY_AUTH_MODE"] = "disabled"
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": CPUS, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=CPUS)]
print(cluster.address, flush=True)
for line in sys.stdin:
    if line.strip() == "lose":
        cluster.remove_node(nodes.pop(), allow_graceful=False)
    else:
        nodes.append(cluster.add_node(num_cpus=CPUS))
    print("done", flush=True)
cluster.shutdown()
"""

    def __init__(self, *before: str, cpus: int = 1, **environment: str) -> None:
        """`before` is put before the command that starts it; `environment` is added to what its processes have; each
        machine has so many `cpus`."""
        self.process = subprocess.Popen(
            [*before, sys.executable, "-c", f"CPUS = {cpus}{self.CODE}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **ENVIRONMENT, **environment},
        )
        self.address = self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def __call__(self, what: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        assert self._line() == "done"

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


@pytest.fixture
def machines() -> Iterator[Machines]:
    found = Machines()
    yield found
    found.close()


def until_said(run: Path, text: str, process: subprocess.Popen[str], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while text not in said(run):
        assert process.poll() is None, said(run)
        assert time.monotonic() < deadline, said(run)
        time.sleep(0.1)


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
    assert "2 ranks = shard 2 on 2 machines" in said(run).split("more machines after step")[1]
    assert steps_of(run)[-1] == 3 * STEPS
    ours, theirs = (
        [(int(row["step"]), float(row["train_loss"])) for row in metric_rows(folder) if row["train_loss"]]
        for folder in (run, alone)
    )
    assert [step for step, _ in ours] == list(range(1, 3 * STEPS + 1)), "each step once"
    for (_, loss), (_, expected) in zip(ours, theirs, strict=True):
        assert loss == pytest.approx(expected, rel=1e-3)
