"""Generators in processes of their own: the numbers of one process, and the same end when one is killed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from cluster_runs import RANDOM, finish, output_of, processes_of, same_end, start, until_step
from processes import metric_rows

STEPS = 12
APART = (
    f"grpo.max_num_steps={STEPS}",
    "grpo.val_at_start=false",
    "policy.generation_batch_size=4",
    "policy.generation.colocated.enabled=false",
)
ONE_PROCESS = ("cluster.cpu_workers_per_node=null", "cluster.gpus_per_node=0")
TWO_GENERATORS = ("cluster.cpu_workers_per_node=3", "policy.generation.colocated.resources.gpus_per_node=2")
SETTINGS = {"a child process": ONE_PROCESS, "actors": TWO_GENERATORS}
AHEAD = "grpo.async_rollouts=lookahead"
TIMES = ("seconds", "tokens_per_s", "memory", "utilization", "idle_share")


def rollouts_of(run: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (run / "rollouts").iterdir()}


def numbers_of(run: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if not any(t in k for t in TIMES)} for row in metric_rows(run)]


@pytest.fixture(scope="module")
def ahead(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rollouts are sampled one step ahead, by a child process."""
    run = tmp_path_factory.mktemp("ahead") / "run"
    finish(start(run, *APART, *ONE_PROCESS, AHEAD, kind="grpo"), run)
    assert {row["staleness_max"] for row in metric_rows(run)[1:]} == {"1"}
    return run


@pytest.fixture(scope="module")
def colocated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("colocated") / "run"
    settings = (*APART, *ONE_PROCESS, "policy.generation.colocated.enabled=true")
    finish(start(run, *settings, kind="grpo"), run)
    return run


def finish_after_a_generator_is_killed(process: Any, run: Path, where: str) -> None:
    """Kill one at a random step, and wait for the end of the run."""
    until_step(run, RANDOM.randrange(2, STEPS - 4), process)
    workers = processes_of(process, "hone generator" if where == "a child process" else "ray::EngineWorker")
    victim = RANDOM.choice(
        [w for w in workers if any("generator" in Path(f.path).name for f in w.open_files())]
    )
    victim.kill()
    finish(process, run)
    assert f"(pid {victim.pid}" in output_of(run)
    assert "starting generator" in output_of(run)
    assert "with new workers" not in output_of(run), "the learner goes on"


@pytest.mark.slow
@pytest.mark.parametrize("where", SETTINGS)
def test_a_generator_may_be_killed_and_the_end_is_that_of_one_process(
    where: str, colocated: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start(run, *APART, *SETTINGS[where], kind="grpo")
    finish_after_a_generator_is_killed(process, run, where)
    assert rollouts_of(run) == rollouts_of(colocated)
    assert numbers_of(run) == numbers_of(colocated)
    if where == "a child process":
        same_end(run, colocated, STEPS)
    weights = re.search(r"weights by (\S+)", output_of(run))
    assert weights is not None
    assert not Path(weights[1]).exists()


@pytest.mark.slow
@pytest.mark.parametrize("where", SETTINGS)
def test_a_generator_that_samples_ahead_may_be_killed(where: str, ahead: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(run, *APART, *SETTINGS[where], AHEAD, kind="grpo")
    finish_after_a_generator_is_killed(process, run, where)
    assert rollouts_of(run) == rollouts_of(ahead)
    assert numbers_of(run) == numbers_of(ahead)
    if where == "a child process":
        same_end(run, ahead, STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("where", SETTINGS)
def test_a_generator_of_a_stream_may_be_killed(where: str, tmp_path: Path) -> None:
    """Its completions are sampled elsewhere, or again; no prompt is lost."""
    run = tmp_path / "run"
    stream = ("grpo.async_rollouts=stream", "grpo.max_staleness=2", "policy.generation.max_new_tokens=32")
    process = start(run, *APART, *SETTINGS[where], *stream, kind="grpo")
    finish_after_a_generator_is_killed(process, run, where)
    rows = metric_rows(run)
    assert max(float(row["staleness_max"]) for row in rows) <= 2
    groups = [
        {
            json.loads(line)["group"]
            for line in (run / "rollouts" / f"step_{step}.jsonl").read_text().split("\n")[:-1]
        }
        for step in range(1, STEPS + 1)
    ]
    assert {len(step) for step in groups} == {len(groups[0])}
    draws = sorted(int(name.rsplit(".", 1)[1]) for step in groups for name in step)
    assert draws == list(range(len(draws))), "each prompt is trained on once"
