"""Real worker processes: what hangs, crashes or raises costs exactly its own samples."""

from __future__ import annotations

import asyncio
import sys
import time

import pytest

from hone.errors import RewardError
from hone.rollout.rewards.resolve import resolve_all
from hone.rollout.rewards.reward_pool import RewardPool, Scored
from tests.helpers.pool_helpers import FUNCTIONS, entry, score


def only_guilty(scored: list[Scored], completions: list[str], guilty: int, cause: str) -> None:
    """The guilty sample fails with its cause; every other keeps its exact reward."""
    assert scored[guilty].reward is None
    assert cause in str(scored[guilty].failure)
    for i, (one, completion) in enumerate(zip(scored, completions, strict=True)):
        if i != guilty:
            assert one == Scored({"troubled": float(len(completion))}, float(len(completion)), None)


@pytest.mark.parametrize(
    ("trouble", "cause"),
    [
        ("hang", "timeout after 0.5 s in reward 'troubled'"),
        ("regex", "timeout after 0.5 s in reward 'troubled'"),
        ("segfault", "worker died with signal 11 (SIGSEGV) in reward 'troubled'"),
        ("kill", "worker died with signal 9 (SIGKILL) in reward 'troubled'"),
        ("exit", "worker exited with code 3 in reward 'troubled'"),
        ("sysexit", "reward 'troubled' raised SystemExit: enough"),
        ("raise", "reward 'troubled' raised ValueError: cannot score 'raise' "),
        ("nan", "reward 'troubled' returned NaN"),
        ("inf", "reward 'troubled' returned -inf"),
        ("none", "no reward function applies"),
    ],
)
def test_one_bad_completion_of_64_fails_alone(trouble: str, cause: str) -> None:
    completions = ["x" * (i % 17) for i in range(64)]
    completions[37] = trouble
    only_guilty(score([entry("troubled")], completions), completions, 37, cause)


def test_the_place_of_an_exception_is_in_the_users_file() -> None:
    failure = score([entry("troubled")], ["fine", "raise"])[1].failure
    line = (
        FUNCTIONS.read_text()
        .split("\n")
        .index('            raise ValueError(f"cannot score {completion!r}")')
        + 1
    )
    assert failure is not None
    assert failure.endswith(f"({FUNCTIONS}:{line})")


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS binds on Linux")
def test_a_worker_cannot_exceed_its_memory_limit() -> None:
    scored = score([entry("troubled")], ["fine", "memory", "fine"], memory_limit_mb=1024)
    only_guilty(scored, ["fine", "memory", "fine"], 1, "raised MemoryError")


def test_several_bad_ones_of_different_kinds() -> None:
    completions = ["ok"] * 60 + ["hang", "exit", "raise", "nan"]
    scored = score([entry("troubled")], completions)
    assert [s.reward for s in scored[:60]] == [2.0] * 60
    assert all(s.reward is None and s.failure for s in scored[60:])


def test_all_bad_is_an_error_that_counts_the_causes_and_shows_the_first_traceback() -> None:
    with pytest.raises(RewardError) as caught:
        score([entry("troubled")], ["raise"] * 64)
    message = str(caught.value)
    assert "7 of 64 completions could not be scored" in message
    assert "7 x reward 'troubled' raised ValueError" in message
    assert "Traceback" in message
    assert "in troubled" in message


@pytest.mark.slow
def test_all_hanging_ends_at_the_bound_and_not_after_every_one() -> None:
    start = time.monotonic()
    with pytest.raises(RewardError, match=r"timeout after 0.2 s in reward 'troubled'"):
        score([entry("troubled")], ["hang"] * 200, timeout_s=0.2, max_failure_fraction=0.05)
    assert time.monotonic() - start < 200 * 0.2 / 2 / 2


def test_a_run_stops_past_the_fraction_of_failures() -> None:
    three_of_32 = ["nan"] * 3 + ["ok"] * 29
    assert sum(s.failure is not None for s in score([entry("troubled")], three_of_32)) == 3
    with pytest.raises(RewardError, match=r"max_failure_fraction=0.05"):
        score([entry("troubled")], three_of_32, max_failure_fraction=0.05)
    assert score([entry("troubled")], ["nan", "ok"])[1].reward == 2.0  # one alone never stops a run
    with pytest.raises(RewardError):
        score([entry("troubled")], ["nan", "ok"], max_failure_fraction=0)
    with pytest.raises(RewardError):
        score([entry("troubled")], ["nan"])
    assert score([entry("troubled")], ["nan"] * 4, max_failure_fraction=1.0)[0].reward is None


def test_the_last_output_of_a_crash_is_in_the_error() -> None:
    with pytest.raises(RewardError, match="Segmentation fault"):
        score([entry("troubled")], ["segfault"])


@pytest.mark.slow
def test_a_slow_function_is_called_on_fewer_at_a_time() -> None:
    async def run() -> None:
        with RewardPool(resolve_all([entry("slow")]), num_workers=1, timeout_s=0.6) as pool:
            for expected_retries in (8, 0):
                scored = await pool.score(["p"] * 8, ["c"] * 8, {})
                assert [s.reward for s in scored] == [1.0] * 8
                assert pool.metrics()["workers_retried"] == expected_retries

    asyncio.run(run())


def test_a_failure_in_one_function_keeps_the_rewards_of_the_others() -> None:
    scored = score([entry("length"), entry("troubled")], ["ok", "raise", "ok"])
    assert scored[1].rewards == {"length": 5.0, "troubled": None}
    assert scored[1].reward is None
    assert scored[0].reward == 4.0


def test_chunks_hold_whole_groups() -> None:
    sizes = [s.reward for s in score([entry("chunk_sizes")], ["x"] * 30, group_size=10)]
    assert sizes == [20.0] * 20 + [10.0] * 10


def test_an_empty_batch_has_no_scores() -> None:
    assert score([entry("length")], []) == []
