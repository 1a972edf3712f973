"""A teacher on devices of its own: the same numbers, and when it is lost it is replaced."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster_runs import RANDOM, finish, output_of, processes_of, same_end, start, until_step
from processes import metric_rows

STEPS = 12
OWN = ("cluster.cpu_workers_per_node=1", "cluster.teacher_devices=1", f"distillation.max_num_steps={STEPS}")
HERE = ("cluster.cpu_workers_per_node=null", f"distillation.max_num_steps={STEPS}")
COMPARED = ("policy_loss_total", "forward_kl", "reverse_kl", "grad_norm", "teacher_in_topk")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("reference") / "run"
    finish(start(run, *OWN, kind="distill"), run)
    return run


@pytest.mark.slow
def test_the_numbers_are_those_of_one_process(uninterrupted: Path, tmp_path: Path) -> None:
    assert "the teacher on one rank of its own" in output_of(uninterrupted)
    assert (uninterrupted / "workers" / "teacher_rank_0.log").is_file()
    run = tmp_path / "run"
    finish(start(run, *HERE, kind="distill"), run)
    ours, theirs = ([row for row in metric_rows(r) if row["forward_kl"]] for r in (uninterrupted, run))
    assert len(ours) == len(theirs) == STEPS
    for one, other in zip(ours, theirs, strict=True):
        for name in COMPARED:
            assert float(one[name]) == pytest.approx(float(other[name]), rel=1e-4, abs=1e-5), name


@pytest.mark.long
@pytest.mark.slow
def test_a_teacher_that_dies_is_named_and_replaced(uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(run, *OWN, kind="distill")
    until_step(run, RANDOM.randrange(4, 8), process)
    workers = processes_of(process, "ray::EngineWorker")
    victims = [w for w in workers if any(f.path.endswith("teacher_rank_0.log") for f in w.open_files())]
    assert len(victims) == 1, workers
    victims[0].kill()
    finish(process, run)
    assert f"teacher rank 0 (pid {victims[0].pid} on" in output_of(run)
    assert "died" in output_of(run)
    same_end(run, uninterrupted, STEPS)
