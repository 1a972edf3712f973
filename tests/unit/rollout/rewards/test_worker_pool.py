"""Worker processes: replaced, killed with what they started, silent, and gone when the parent is."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from hone.rollout.rewards.resolve import resolve_all
from hone.rollout.rewards.reward_pool import RewardPool, Scored
from tests.helpers.pool_helpers import FUNCTIONS, entry, score


def test_a_killed_worker_is_replaced() -> None:
    async def run() -> None:
        with RewardPool(resolve_all([entry("length")]), num_workers=1) as pool:
            for _ in range(3):
                pid = pool.worker_pids()[0]
                os.kill(pid, signal.SIGKILL)
                scored = await pool.score(["p"] * 4, ["a", "bb", "ccc", ""], {})
                assert [s.reward for s in scored] == [1.0, 2.0, 3.0, 0.0]
                assert pool.worker_pids() != [pid]
            assert pool.metrics()["workers_killed"] == 3

    asyncio.run(run())


@pytest.mark.parametrize("start", ["child", "daemon"])
def test_what_a_killed_function_started_dies_with_it(start: str) -> None:
    if start == "daemon" and sys.platform != "linux":
        pytest.skip("only Linux has subreapers")
    before = _sleepers()
    score([entry("troubled")], ["ok"] * 20 + [start])
    assert _sleepers() == before


@pytest.mark.parametrize(
    ("completion", "cause"),
    [
        (f"reply {1 << 60}", "a message of 1,152,921,504,606,846,976 bytes exceeds the limit of 67,108,864"),
        ("reply 10", "a reply continues after its end"),
        ("garble", "a reply is not JSON"),
        ("report", "raised what it returned and reported is longer than 67,108,864 bytes"),
    ],
)
def test_a_reply_that_is_none_fails_its_sample_alone(completion: str, cause: str) -> None:
    scored = score([entry("troubled")], ["ok", completion, "ok"], timeout_s=20, num_workers=1)
    assert [one.reward for one in scored] == [2.0, None, 2.0]
    assert cause in (scored[1].failure or "")


def test_a_child_that_outlives_the_worker_does_not_pass_for_it() -> None:
    start = time.monotonic()
    scored = score([entry("troubled")], ["fork", "ok"], timeout_s=30)
    assert scored[0].failure == "worker exited with code 3 in reward 'troubled'"
    assert scored[1].reward == 2.0
    assert time.monotonic() - start < 10


def _sleepers() -> set[str]:
    out = subprocess.run(["pgrep", "-f", "^sleep 300"], capture_output=True, text=True).stdout
    return set(out.split())


def test_output_is_drained_to_a_bounded_log_and_never_to_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "logs" / "rewards.log"
    scored = score([entry("troubled")], ["print"] * 40, log_path=log, timeout_s=10)
    assert [s.reward for s in scored] == [5.0] * 40
    assert capfd.readouterr() == ("", "")
    assert "the last words" in log.read_text()
    assert sum(f.stat().st_size for f in log.parent.iterdir()) < 12_000_000


def test_one_pool_serves_several_event_loops_and_calls_at_once() -> None:
    async def twice(pool: RewardPool) -> list[list[Scored]]:
        calls = [pool.score(["p"] * 20, ["x" * n] * 20, {}) for n in range(8)]
        return list(await asyncio.gather(*calls))

    with RewardPool(resolve_all([entry("length")]), num_workers=2) as pool:
        for _ in range(2):
            assert [[s.reward for s in r] for r in asyncio.run(twice(pool))] == [
                [float(n)] * 20 for n in range(8)
            ]


def test_cancelling_does_not_wait_for_a_hang() -> None:
    async def run() -> None:
        pool = RewardPool(resolve_all([entry("troubled")]), num_workers=1, timeout_s=60)
        with pool, pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(pool.score(["p"], ["hang"], {}), 0.3)

    start = time.monotonic()
    asyncio.run(run())
    assert time.monotonic() - start < 5


PARENT = """
    import asyncio, signal, sys
    from hone.rollout.rewards.reward_pool import RewardPool
    from hone.rollout.rewards.resolve import resolve_all

    async def main():
        with RewardPool(resolve_all(["{functions}:troubled"]), num_workers=1, timeout_s=60) as pool:
            print(pool.worker_pids()[0], flush=True)
            await pool.score(["p"], ["{completion}"], {{}})

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        print("torch" in sys.modules)
        sys.exit(7)
"""


@pytest.mark.parametrize("completion", ["regex", "sleep 60"])
def test_workers_end_when_the_parent_is_killed(completion: str) -> None:
    parent, worker = _parent(completion)
    parent.kill()
    parent.wait()
    assert _gone(worker)


def test_ctrl_c_ends_at_once_and_quietly() -> None:
    parent, worker = _parent("hang")
    os.killpg(parent.pid, signal.SIGINT)  # what a terminal does: the whole foreground group
    out, errors = parent.communicate(timeout=10)
    assert parent.returncode == 7
    assert (out.strip(), errors) == ("False", "")  # nor was torch imported
    assert _gone(worker)


def _parent(completion: str) -> tuple[subprocess.Popen[str], int]:
    code = textwrap.dedent(PARENT).format(functions=FUNCTIONS, completion=completion)
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    time.sleep(0.3)  # let the function begin
    return parent, worker


def _gone(pid: int) -> bool:
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_a_worker_starts_fast_and_light() -> None:
    start = time.monotonic()
    with RewardPool(resolve_all(["answer", "numeric", "format"]), num_workers=1):
        assert time.monotonic() - start < 1.0  # 0.05 s on an idle machine
    code = "import sys, hone.rollout.rewards.worker; print({'torch', 'numpy', 'hone.types'} & {*sys.modules})"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
    )
