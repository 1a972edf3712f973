"""Stopping on purpose, and going on: Ctrl-C, SIGTERM, a time limit, the end."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import time

import pytest
from processes import GRPO, hone, result, same, start, steps_of, succeeded

from hone.training.process import run_async
from tests.integration.resume.conftest import RUNS

SLOW_REWARD = """
import time

def slow(prompts, completions, **columns):
    time.sleep({seconds})
    return [float(len(text)) for text in completions]
"""


def slow_grpo(place, run_dir, seconds: float, *more: str) -> tuple[str, ...]:
    """A GRPO run whose every step takes so long, without using the processor."""
    file = place / f"{run_dir.name}.py"
    file.write_text(SLOW_REWARD.format(seconds=seconds))
    return (
        *GRPO,
        "grpo.val_period=0",
        f"rewards.functions=[{{path: '{file.name}:slow'}}]",
        f"checkpointing.checkpoint_dir={run_dir.name}",
        *more,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "number"),
    [("sft", signal.SIGINT), pytest.param("grpo", signal.SIGTERM, marks=pytest.mark.slow)],
)
def test_a_signal_saves_and_the_run_goes_on(kind, number, place, run_dir, uninterrupted):
    argv = (*RUNS[kind], f"checkpointing.checkpoint_dir={run_dir.name}")
    running = start(*argv, cwd=place)
    running.until("step 3/")
    running.send(number)
    ended = running.wait()
    assert ended.code == 130, ended
    step = steps_of(run_dir)[-1]
    assert f"stopped after step {step}: saved {run_dir.name}/step_{step}; run the same command" in ended.err
    assert ended.err.count("\n") == 1
    assert "stopping: this step is finished and saved first" in ended.out
    again = succeeded(hone(*argv, cwd=place))
    assert f"resumed from {run_dir.name}/step_{step}" in again.out
    expected = uninterrupted(kind)[0]
    got = result(run_dir)
    got.steps = expected.steps  # the step that was stopped at has a checkpoint of its own
    same(got, expected)


def test_a_second_ctrl_c_stops_at_once(place, run_dir):
    argv = slow_grpo(place, run_dir, 8, "grpo.max_num_steps=2", "rewards.timeout_s=60")
    running = start(*argv, cwd=place)
    file = run_dir / "metrics.csv"
    while not file.exists():
        assert not running.poll(0.01)
    time.sleep(0.3)
    running.send(signal.SIGINT)
    running.until("stopping:")
    time.sleep(0.15)
    began = time.monotonic()
    running.send(signal.SIGINT)
    ended = running.wait(5)
    assert time.monotonic() - began < 4
    assert ended.code == 130
    assert re.fullmatch(r"stopped at once, in step 1: .* run the same command to resume\n", ended.err)


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03, 0.08])
def test_a_second_ctrl_c_while_a_checkpoint_is_written(delay, place, run_dir, uninterrupted):
    argv = (*RUNS["sft"], f"checkpointing.checkpoint_dir={run_dir.name}")
    running = start(*argv, cwd=place)
    while not list(run_dir.glob(".writing_step_8_*")):
        assert not running.poll(0.0005)
    time.sleep(delay)
    running.send(signal.SIGINT)
    running.send(signal.SIGTERM)
    ended = running.wait()
    assert ended.code == 130
    assert ended.err.count("\n") == 1, ended.err
    assert "stopped " in ended.err
    assert "error" not in ended.err
    succeeded(hone(*argv, cwd=place))
    got = result(run_dir)
    got.steps = uninterrupted("sft")[0].steps
    same(got, uninterrupted("sft")[0])


@pytest.mark.parametrize(("kind", "later"), [("sft", 0.0), ("grpo", 0.0), ("grpo", 0.1)])
def test_ctrl_c_before_the_first_step_is_heard(kind, later, place, run_dir):
    """While the reward workers and the model are loaded: nothing to save, and nothing goes on."""
    running = start(*RUNS[kind], f"checkpointing.checkpoint_dir={run_dir.name}", cwd=place)
    while not run_dir.is_dir():
        assert not running.poll(0.0005)
    running.poll(later)
    running.send(signal.SIGINT)
    ended = running.wait(20)
    assert ended.code == 130, ended
    assert "Traceback" not in ended.err


def test_ctrl_c_is_heard_by_a_loop_that_never_waits():
    went_on = []

    async def never_waits() -> dict[str, int]:
        os.kill(os.getpid(), signal.SIGINT)
        went_on.append(sum(range(1000)))
        return {}

    with pytest.raises(KeyboardInterrupt):
        run_async(never_waits())
    assert not went_on
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
def test_saved_by_the_time_that_was_set(place, run_dir, uninterrupted):
    """No time at all is one step for each start: so a run in many pieces ends as the run in one."""
    argv = (*RUNS["sft"], f"checkpointing.checkpoint_dir={run_dir.name}")
    for step in (1, 2):
        ended = succeeded(hone(*argv, "checkpointing.checkpoint_must_save_by=0:0:0:0", cwd=place))
        assert f"stopped at step {step}/18 (checkpoint_must_save_by)" in ended.out
        assert steps_of(run_dir)[-1] == step
    succeeded(hone(*argv, cwd=place))
    got = result(run_dir)
    got.steps = uninterrupted("sft")[0].steps
    same(got, uninterrupted("sft")[0])


@pytest.mark.slow
def test_saved_by_means_before(place, run_dir):
    """A step that would end too late is not begun."""
    argv = slow_grpo(
        place, run_dir, 4, "checkpointing.checkpoint_must_save_by=0:0:0:11", "grpo.max_num_steps=99"
    )
    ended = succeeded(hone(*argv, cwd=place))
    found = re.search(r"stopped at step (\d+)/99 \(checkpoint_must_save_by\)", ended.out)
    assert found, ended.out
    # Steps of 4 s and more: after the second (8 s) another would end beyond 11 s. Without looking ahead the run would
    # begin it, and save at 12 s.
    assert 1 <= int(found[1]) <= 2
    saved = (run_dir / f"step_{found[1]}" / "manifest.json").stat().st_mtime
    assert saved - (run_dir / "config.yaml").stat().st_mtime <= 11


def test_a_finished_run_says_so_and_changes_nothing(place, run_dir, uninterrupted):
    uninterrupted("sft")
    run = place / "reference_sft"

    def everything():
        return {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in sorted(run.rglob("*")) if f.is_file()}

    before = everything()
    ended = succeeded(hone(*RUNS["sft"], "checkpointing.checkpoint_dir=reference_sft", cwd=place))
    assert "reference_sft is a finished run (step 18 of 18); nothing was changed" in ended.out
    assert "raise sft.max_num_steps" in ended.out
    assert everything() == before


@pytest.mark.slow
def test_more_steps_go_on_from_the_end(place, run_dir, uninterrupted):
    argv = (*RUNS["sft"], f"checkpointing.checkpoint_dir={run_dir.name}")
    succeeded(hone(*argv, "sft.max_num_steps=8", cwd=place))
    ended = succeeded(hone(*argv, cwd=place))
    assert f"resumed from {run_dir.name}/step_8" in ended.out
    same(result(run_dir), uninterrupted("sft")[0])


@pytest.mark.slow
def test_a_goal_that_is_reached_ends_the_run_for_good(place, run_dir):
    argv = (
        *RUNS["grpo"],
        f"checkpointing.checkpoint_dir={run_dir.name}",
        "grpo.stop_at_validation_metric=val:completion_length",
    )
    ended = succeeded(hone(*argv, "grpo.stop_at_validation_threshold=1", cwd=place))
    assert "stopped at step 3/8 (val:completion_length reached 1" in ended.out
    again = succeeded(hone(*argv, "grpo.stop_at_validation_threshold=1", cwd=place))
    assert "finished run (step 3 of 8: val:completion_length reached 1" in again.out
    assert "nothing was changed" in again.out
    further = succeeded(hone(*argv, "grpo.stop_at_validation_threshold=100", cwd=place))
    assert "done at step 8/8" in further.out


@pytest.mark.slow
def test_two_runs_do_not_share_a_folder(place, run_dir):
    run_dir.mkdir()
    held = os.open(run_dir, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        ended = hone(*RUNS["sft"], f"checkpointing.checkpoint_dir={run_dir.name}", cwd=place)
    finally:
        os.close(held)
    assert ended.code == 1
    assert f"another run is writing to checkpointing.checkpoint_dir={run_dir.name}" in ended.err
