"""Two ranks, killed again and again at random moments: a rank, the raylet, the driver. The end is the same to the bit.

HONE_KILLS says how many kills each run gets (1; ten take half an hour in all), HONE_KILL_SEED repeats them.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from cluster_runs import MODELS, RANDOM, SEED, finish, output_of, processes_of, same_end, start
from processes import steps_of

from hone.config.schema.roots import section_of
from hone.engine.ray.local_cluster import ATTEMPTS

KILLS = int(os.environ.get("HONE_KILLS", "1"))
LONGEST_S = 20.0
"""A run is killed at most so long after it began (or went on): starting takes half of it, so that falls in, too."""
STEPS = 30 * KILLS
MORE = (
    "cluster.max_restarts=100",
    "checkpointing.save_period=2",
    "checkpointing.keep_top_k=2",
)
NAMES = {"rank": "ray::EngineWorker", "raylet": "raylet/raylet"}


KINDS = ("sft", *(pytest.param(k, marks=pytest.mark.long) for k in ("grpo", "dpo", "rm", "ppo", "distill")))


@pytest.fixture(scope="module", params=KINDS)
def uninterrupted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    run = tmp_path_factory.mktemp(f"reference_{request.param}") / "run"
    finish(begin(run, request.param), run, seconds=900)
    return request.param, run


def begin(run: Path, kind: str) -> subprocess.Popen[str]:
    return start(run, *MORE, f"{section_of(kind)}.max_num_steps={STEPS}", kind=kind)


def shoot(process: subprocess.Popen[str], what: str, seconds: float) -> bool:
    """Kill `what` of a run after some time, or as soon as there is one; False if the run ended before."""
    deadline = time.monotonic() + seconds
    while process.poll() is None:
        time.sleep(0.05)
        if time.monotonic() < deadline:
            continue
        if what == "driver":
            process.kill()
            process.wait()
            return True
        try:
            victims = processes_of(process, NAMES[what])
            if victims:
                RANDOM.choice(victims).kill()
                return True
        except psutil.Error:  # it ended on its own just now
            continue
    return False


def newest(run: Path) -> int:
    return max(steps_of(run), default=0)


def await_checkpoint(process: subprocess.Popen[str], run: Path) -> None:
    """Let a run whose last starts of Ray were killed start: as many again in a row would rightly end it."""
    last = newest(run)
    while newest(run) == last and process.poll() is None:
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    "what", [*(pytest.param(w, marks=pytest.mark.long) for w in ("rank", "raylet")), "driver"]
)
def test_kills_at_random_moments(what: str, uninterrupted: tuple[str, Path], tmp_path: Path) -> None:
    kind, reference = uninterrupted
    run = tmp_path / "run"
    process = begin(run, kind)
    checkpoints: list[int] = []  # the newest one at each kill
    while (kills := len(checkpoints)) < KILLS and process.poll() is None:
        if what == "raylet" and checkpoints[1 - ATTEMPTS :] == [newest(run)] * (ATTEMPTS - 1):
            await_checkpoint(process, run)
        if shoot(process, what, RANDOM.uniform(0.5, LONGEST_S)):
            checkpoints.append(newest(run))
        if what == "driver" and checkpoints:
            process = begin(run, kind)
    finish(process, run, seconds=900)
    assert kills, f"the run ended before it was killed (HONE_KILL_SEED={SEED})"
    print(f"{what}: {kills} kills, seed {SEED}")
    same_end(run, reference, STEPS, MODELS.get(kind, ("policy",)))
    assert "Traceback" not in output_of(run)
