"""Rule 5: a run killed at any instant and restarted by the same command ends as the one that was not killed.

Killed with SIGKILL, which no process can see coming. Compared to the bit: weights and optimizer as DCP holds them,
schedule, data position and random generators, metrics (each step once), every rollout and validation sample.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import ENVIRONMENT, command, hone, result, same, start, succeeded

from tests.integration.resume.conftest import RUNS

SEED = int(os.environ.get("HONE_KILL_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
RANDOM = random.Random(SEED)


def killed_until_done(kind, place, run_dir, uninterrupted, moments) -> None:
    """Kill one process at each of `moments`. A run that ends before its moment comes is compared, and the kill falls
    on a new one."""
    reference, seconds = uninterrupted[0], uninterrupted[1].seconds
    argv = (*RUNS[kind], f"checkpointing.checkpoint_dir={run_dir.name}")
    for moment in moments:
        while True:
            running = start(*argv, cwd=place)
            moment(running, run_dir, seconds)
            running.send(signal.SIGKILL)
            ended = running.wait()
            if ended.code == -signal.SIGKILL:
                break
            same(result(run_dir), reference)
            shutil.rmtree(run_dir)
    succeeded(hone(*argv, cwd=place))
    same(result(run_dir), reference)
    assert not [*run_dir.glob(".writing*"), *run_dir.glob(".removing*")]


def anywhere(running, run_dir: Path, seconds: float) -> None:
    """A moment drawn over the whole duration of a run."""
    running.poll(RANDOM.uniform(0, seconds))


def while_writing(running, run_dir: Path, seconds: float) -> None:
    """A moment shortly after a checkpoint's folder has appeared aside, or an old one begins to go."""

    def aside() -> set[str]:
        names = os.listdir(run_dir) if run_dir.is_dir() else []
        return {name for name in names if name.startswith((".writing", ".removing"))}

    before, skip, seen = aside(), RANDOM.randrange(3), set[str]()
    while len(seen) <= skip and not running.poll(0.0005):
        seen |= aside() - before
    time.sleep(RANDOM.uniform(0, 0.1))


@pytest.mark.parametrize(
    "kind",
    [
        "sft",
        *(
            pytest.param(kind, marks=pytest.mark.slow)
            for kind in (
                "grpo",
                "dpo",
                "rm",
                "ppo",
                "distill",
                "online-dpo",
                "dynamic",
                "environment",
                "lookahead",
                "lookahead-dynamic",
                "lookahead-environment",
            )
        ),
    ],
)
def test_killed_twice(kind, place, run_dir, uninterrupted):
    print(f"HONE_KILL_SEED={SEED}")
    killed_until_done(kind, place, run_dir, uninterrupted(kind), [anywhere, while_writing])


@pytest.mark.slow
@pytest.mark.parametrize("moment", [anywhere, while_writing])
@pytest.mark.parametrize(
    "kind",
    [
        *("sft", "grpo"),
        *(
            pytest.param(kind, marks=pytest.mark.long)
            for kind in ("dpo", "rm", "ppo", "distill", "online-dpo", "lookahead")
        ),
    ],
)
def test_killed_ten_times(kind, moment, place, run_dir, uninterrupted):
    print(f"HONE_KILL_SEED={SEED}")
    killed_until_done(kind, place, run_dir, uninterrupted(kind), [moment] * 10)


@pytest.mark.slow
def test_the_real_command_killed(place, run_dir, uninterrupted):
    """The same without the tests' own way to start processes."""
    reference, _ = uninterrupted("sft")
    argv = ["-m", "hone", *RUNS["sft"], f"checkpointing.checkpoint_dir={run_dir.name}"]
    process = subprocess.Popen(
        [sys.executable, *argv], cwd=place, env={**os.environ, **ENVIRONMENT}, stdout=subprocess.DEVNULL
    )
    while not (run_dir / "step_8").is_dir():
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    again = succeeded(command(*argv, cwd=place))
    assert "resumed from" in again.out
    same(result(run_dir), reference)
