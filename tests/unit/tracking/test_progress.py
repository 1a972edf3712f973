"""The progress line, on a terminal and off it."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import subprocess
import sys
import threading
import time

import pytest

from hone.tracking import Progress
from hone.tracking.activity import Activity


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def plain(total: int, kind: str = "sft", start: int = 0) -> tuple[Progress, io.StringIO, Clock]:
    stream, clock = io.StringIO(), Clock()
    return Progress(total, kind, start, stream=stream, clock=clock), stream, clock


def test_plain_lines_are_the_first_few_then_one_every_two_seconds_then_the_last() -> None:
    progress, stream, clock = plain(100)
    with progress:
        for step in range(1, 101):
            clock.now += 0.1
            progress.update(step, {"train_loss": 1.0}, tokens=50)
    steps = [int(re.match(r"step (\d+)/100", line)[1]) for line in stream.getvalue().splitlines()]  # type: ignore[index]
    assert steps[:3] == [1, 2, 3]
    assert steps[-1] == 100
    assert 3 + 10 / 2.1 - 1 <= len(steps) <= 3 + 10 / 2 + 1


def test_a_line_says_step_loss_speed_and_time_left() -> None:
    progress, stream, clock = plain(5)
    with progress:
        clock.now += 2.0
        progress.update(1, {"train_loss": 1.2345}, tokens=3000)
    assert stream.getvalue() == "step 1/5  loss 1.234  1.5k tok/s  left 8s\n"


def test_grpo_shows_the_reward_and_keeps_the_last_validation() -> None:
    progress, stream, clock = plain(9, "grpo")
    with progress:
        clock.now += 1.0
        progress.update(1, {"reward": 0.25, "val_accuracy": 0.5}, tokens=10)
        progress.update(2, {"reward": 0.5}, tokens=10)
    assert "reward 0.5  val accuracy 0.5" in stream.getvalue().splitlines()[1]


def test_an_accuracy_of_an_earlier_validation_is_not_shown_beside_a_later_reward() -> None:
    progress, stream, clock = plain(9, "grpo")
    with progress:
        clock.now += 1.0
        progress.update(1, {"val_accuracy": 0.5, "val_reward": 0.5}, tokens=10)
        progress.update(2, {"val_reward": 0.75}, tokens=10)
    first, second = stream.getvalue().splitlines()[:2]
    assert "val accuracy 0.5" in first
    assert "val reward 0.75" in second
    assert "accuracy" not in second


def test_speed_and_time_left_forget_steps_before_the_resume_and_validation() -> None:
    progress, _, clock = plain(20, start=10)
    with progress:
        clock.now += 2.0
        progress.update(11, {}, tokens=100)
        clock.now += 100.0
        progress.phase("validation", 8, 8)
        clock.now += 2.0
        progress.update(12, {}, tokens=100)
    assert progress.tokens_per_second() == pytest.approx(50.0)
    assert progress.seconds_left() == pytest.approx(16.0)


def test_the_time_left_counts_all_prompts_of_an_update() -> None:
    progress, stream, clock = plain(512)
    with progress:
        clock.now += 4.0
        progress.update(256, {})
    assert progress.seconds_left() == pytest.approx(4.0)
    assert "left 4s" in stream.getvalue()


def test_a_phase_and_notes_print_plain_lines() -> None:
    progress, stream, clock = plain(3)
    with progress:
        progress.note("saved step_1 [not markup]")
        for done in range(1, 9):
            clock.now += 0.3
            progress.phase("validation", done, 8)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "saved step_1 [not markup]"
    assert lines[-1] == "validation 8/8"
    assert len(lines) < 5


def lines_within(stream: io.StringIO, count: int, seconds: float = 10.0) -> list[str]:
    """The lines of a stream once it has `count` of them."""
    limit = time.monotonic() + seconds
    while stream.getvalue().count("\n") < count and time.monotonic() < limit:
        time.sleep(0.005)
    return stream.getvalue().splitlines()


def test_a_slow_step_says_what_it_is_at_and_a_quick_one_does_not() -> None:
    stream = io.StringIO()
    with Progress(7, "grpo", stream=stream, quiet=0.1) as progress:
        progress.doing("sampling")
        assert lines_within(stream, 2)[:2] == ["step 1/7: sampling: 0s so far"] * 2
        progress.doing("training")
        assert "step 1/7: training: 0s so far" in lines_within(stream, stream.getvalue().count("\n") + 2)
        progress.update(1, {"reward": 1.0})
        told = stream.getvalue()
        time.sleep(0.3)
        assert stream.getvalue() == told, "nothing is going on"
    quick = io.StringIO()
    with Progress(7, "grpo", stream=quick, quiet=5.0) as progress:
        progress.doing("sampling")
    assert quick.getvalue() == ""


def test_an_activity_ends_with_its_thread() -> None:
    activity = Activity(stream=io.StringIO(), every=60.0)
    activity.begin("loading")
    activity.close()
    assert "activity" not in [thread.name for thread in threading.enumerate()]


def test_the_held_out_score_before_training_is_told() -> None:
    progress, stream, _ = plain(9, "sft")
    with progress:
        progress.before_training({"val_loss": 2.5, "val_seconds": 3.0})
    assert stream.getvalue() == "before training: val loss 2.5\n"


def on_terminal(code: str) -> str:
    """What `code` writes to a pseudo-terminal of 100 columns."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=follower, env=environment)
    os.close(follower)
    seen = b""
    while select.select([leader], [], [], 20)[0]:
        try:
            part = os.read(leader, 65536)
        except OSError:  # Linux's way of saying that the other side is closed
            break
        if not part:
            break
        seen += part
    os.close(leader)
    assert process.wait(20) == 0
    return seen.decode()


RUN = """
import time
from hone.tracking import Progress
with Progress(4, "grpo", 0) as progress:
    for step in range(1, 5):
        time.sleep(0.15)
        progress.update(step, {"reward": step / 4}, tokens=4000)
        progress.phase("validation", 1, 2)
        time.sleep(0.15)
        progress.phase("validation", 2, 2)
    progress.note("saved step_4")
"""


def test_a_terminal_gets_one_live_line() -> None:
    text = on_terminal(RUN)
    visible = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert "4/4" in visible
    assert "reward 1" in visible
    assert "tok/s" in visible
    assert "validation" in visible
    assert "saved step_4" in visible
    assert "━" in visible
    assert "\x1b[2K" in text, "the line is redrawn in place"
    assert text.rstrip().endswith("\x1b[?25h") or "\x1b[?25h" in text, "the cursor comes back"
