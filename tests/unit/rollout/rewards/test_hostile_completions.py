"""Hostile completions through the reward pool: the run lives, each is counted with its cause, nothing is left."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from hone.rollout.sandbox import IsolationError, Sandbox

sys.path.append(str(Path(__file__).resolve().parents[4] / "benchmarks"))
from hostile_completions import Hostile, completions, each_once
from hostile_rewards import judge, open_pool, processes_left, run, wrong

pytestmark = pytest.mark.slow

CAUSES = {
    "1 GB": "MemoryError",
    "flood of processes": "BlockingIOError",
    "flood of threads": "RuntimeError",
    "no folder": "OSError",
    "recursion": "RecursionError",
    "kill -9 self": "signal SIGKILL",
    "kill -15 self": "signal SIGTERM",
    "segfault": "signal SIGSEGV",
    "flood of output": "output",
    "flood of verdicts": "output",
    "exit 0": "exit 0 too early",
    "sys.exit": "SystemExit",
    "replaces the judge": "AssertionError",
    "equals everything": "AssertionError",
    "shared memory": "AssertionError",
    "reads /proc": "AssertionError",
    "raises ok": "exception 'ok'",
    "exits when asked": "exit 0 too early",
    "endless loop": "timeout",
    "deaf": "timeout",
    "9**9**9": "timeout",
    "busy flood": "timeout",
}
"""Of programs, what is kept with the rollout."""


@pytest.fixture(autouse=True)
def isolated() -> None:
    try:
        with Sandbox() as box:
            box.start()
    except IsolationError as error:
        pytest.skip(str(error))


def test_each_kind_of_hostile_completion_is_judged_correctly() -> None:
    batch = each_once()

    async def judged() -> None:
        with open_pool(workers=2) as pool:
            scored = await judge(pool, batch)
            assert wrong(batch, scored) == []
            told = {
                h.kind: s.extra["code_outcome"]
                for h, s in zip(batch, scored, strict=True)
                if h.judge == "code"
            }
            assert {kind: told[kind] for kind in CAUSES} == CAUSES
            failures = {s.failure for s in scored} - {None}
            assert failures == {
                f"timeout after 2 s in reward '{name}'" for name in ("math", "json_schema", "regex")
            }
            metrics = pool.metrics()
            assert metrics["workers_killed"] >= len([s for s in scored if s.failure])
            again = await judge(
                pool, each_once()[:9]
            )  # and the workers that came in their place do their work
            assert wrong(batch[:9], again) == []

    asyncio.run(judged())
    assert processes_left() == []
    assert _of_nobody() == []


def test_a_folder_that_is_deleted_under_the_run(tmp_path: Path) -> None:
    """The run's own working directory, while workers start and are replaced."""
    here = Path.cwd()
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    try:
        os.rmdir(tmp_path / "gone")
        with pytest.raises(FileNotFoundError):
            os.getcwd()
        batch = [
            Hostile("honest", "code", "def add(a, b): return 4", 1.0),
            Hostile("bad", "regex", "a" * 40 + "b"),
        ] * 3

        async def judged() -> None:
            with open_pool(workers=1, timeout_s=1.0) as pool:
                scored = await judge(pool, batch)
                assert wrong(batch, scored) == []

        asyncio.run(judged())
    finally:
        os.chdir(here)


@pytest.mark.long
def test_ten_thousand_hostile_completions_are_judged_correctly() -> None:
    report = asyncio.run(run(completions(10_000), size=500, workers=2))
    assert report["completions"] == report["counted"] == 10_000
    late = [
        one for one in report["wrongly judged"] if "'timeout'" in one
    ]  # honest, on a machine that is too busy
    assert len(late) <= 3
    assert report["wrongly judged"] == late
    assert report["processes left"] == []
    assert report["workers_killed"] > 100
    assert Counter(report["by cause"])["scored 0 by code: timeout"] > 100
    assert _of_nobody() == []


def test_what_is_drawn_repeats() -> None:
    assert completions(300, seed=3) == completions(300, seed=3)
    assert {one.kind for one in completions(3000)} == {one.kind for one in each_once()}


def _of_nobody() -> list[str]:
    """Processes of the users that only sandboxes have, whoever started them: others' are let be."""
    left = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            owner = os.stat(f"/proc/{name}").st_uid
            command = Path(f"/proc/{name}/cmdline").read_bytes()
        except OSError:
            continue
        if owner >= 1_500_000_000 and str(os.getpid()).encode() in command.split(b"\0"):
            left.append(name)
    return left
