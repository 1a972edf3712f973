"""Environment processes end with what they belong to, whatever they are doing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hone.config.schema import EnvConfig
from hone.rollout.environments.pool import EnvironmentPool
from tests.helpers.env_helpers import here

HELPERS = Path(__file__).resolve().parents[3] / "helpers"
PROGRAM = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from env_helpers import here
from hone.config.schema import EnvConfig
from hone.rollout.environments.pool import EnvironmentPool

async def main(pool):
    async with pool.acquire("") as handle, pool.acquire("") as idle:
        await pool.call(idle, "open", {"deed": "ok"}, [])
        await pool.call(handle, "open", {"deed": "hang"}, [])
        print(*pool.pids(), pool.servers[""].pid, flush=True)
        await pool.call(handle, "act", {"role": "assistant", "content": "x"})

with EnvironmentPool(EnvConfig(path=here("Hostile"), timeout_s=600.0)) as pool:
    asyncio.run(main(pool))
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_processes_end_with_a_run_that_is_killed() -> None:
    command = [sys.executable, "-c", PROGRAM, str(HELPERS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 3
        time.sleep(0.3)  # the one that hangs has begun
        assert all(alive(pid) for pid in pids)
        os.kill(process.pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not any(alive(pid) for pid in pids)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has subreapers")
def test_what_a_tool_started_ends_with_its_rollout_process() -> None:
    """In a session of its own, with its parent dead: no process group reaches it."""

    async def play(pool: EnvironmentPool) -> None:
        async with pool.acquire("") as handle:
            await pool.call(handle, "open", {"deed": "daemon"}, [])
            await pool.call(handle, "act", {"role": "assistant", "content": "x"})
            assert len(_sleepers()) == len(before) + 1  # as long as its process lives, so does it

    before = _sleepers()
    with EnvironmentPool(EnvConfig(path=here("Hostile"))) as pool:
        asyncio.run(play(pool))
    deadline = time.monotonic() + 5
    while _sleepers() != before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert _sleepers() == before


def _sleepers() -> set[str]:
    out = subprocess.run(["pgrep", "-f", "^sleep 301"], capture_output=True, text=True).stdout
    return set(out.split())
