"""What a function imports has a limit of its own, at the start of a run and in the middle of a call."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from hone.errors import RewardError
from hone.rollout.rewards.resolve import resolve_all
from hone.rollout.rewards.reward_pool import RewardPool, Scored
from hone.rollout.workers.import_time import CallTimer

FUNCTIONS = """
import importlib, sys, threading, time

def lazily(completions, **columns):
    from slow_package import value
    return [float(value)] * len(completions)

def by_name(completions, **columns):
    return [float(importlib.import_module("slow_package").value)] * len(completions)

def hanging(completions, **columns):
    import slow_package
    time.sleep(60)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "slow_package.py").write_text("import time\ntime.sleep(1.2)\nvalue = 7\n")
    (tmp_path / "rewards.py").write_text(f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n{FUNCTIONS}")
    return tmp_path / "rewards.py"


def scored(path: Path, name: str, **limits: float) -> list[Scored]:
    specs = resolve_all([f"{path}:{name}"])
    with RewardPool(specs, num_workers=1, max_failure_fraction=1.0, **limits) as pool:  # type: ignore[arg-type]
        return asyncio.run(pool.score(["p"], ["c"], {}))


@pytest.mark.parametrize("name", ["lazily", "by_name"])
def test_what_a_call_imports_does_not_count_as_its_time(place: Path, name: str) -> None:
    [one] = scored(place, name, timeout_s=0.9)
    assert (one.reward, one.failure) == (7.0, None)


def test_what_comes_after_the_import_does(place: Path) -> None:
    [one] = scored(place, "hanging", timeout_s=0.5)
    assert one.failure == "timeout after 0.5 s in reward 'hanging'"


def test_imports_have_a_limit_that_is_named(place: Path) -> None:
    [one] = scored(place, "lazily", timeout_s=0.6, load_timeout_s=0.8)
    assert one.failure == "timeout after 0.8 s of imports in reward 'lazily'"
    (place.parent / "top.py").write_text(place.read_text() + "import slow_package\n")
    with pytest.raises(RewardError, match=re.escape("timeout after 0.8 s (raise rewards.load_timeout_s?)")):
        scored(place.parent / "top.py", "lazily", load_timeout_s=0.8)


def test_the_function_that_is_being_loaded_is_named(place: Path) -> None:
    said: list[str] = []
    pool = RewardPool(resolve_all(["format", f"{place}:lazily"]), num_workers=1)
    pool.start(said.append).close()
    assert said == ["loading reward 'format'", f"loading reward 'lazily' ({place}:lazily)"]


def test_the_time_limit_stands_still_while_something_is_imported(tmp_path: Path) -> None:
    import os

    now, (read, write) = [100.0], os.pipe()
    os.set_blocking(read, False)
    os.write(write, b"(")  # of a call before, which never told its end
    timer = CallTimer(10.0, 60.0, read, lambda: now[0])

    def after(seconds: float, signs: bytes = b"") -> float:
        now[0] += seconds
        os.write(write, signs)
        timer.read_events()
        return timer.remaining()

    assert after(4.0) == 6.0
    assert after(1.0, b"(") == 60.0  # 5 s of the call are over
    assert after(20.0) == 40.0
    assert after(0.0, b")") == 5.0
    assert after(2.0, b"(") == 40.0
    assert after(41.0) == -1.0
    assert timer.cause() == "timeout after 60 s of imports"
    os.close(read)
    os.close(write)
