"""Who worked when in a step of an online run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hone.rollout import timeline as module
from hone.rollout.timeline import GENERATOR, KEPT, LEARNER, REWARDS, Timeline
from hone.tracking.timeline_plot import draw_timeline


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which the test sets."""
    now = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    return now


def written(file: Path) -> list[dict[str, object]]:
    return list(json.loads(file.read_text())["steps"])


def test_work_that_overlaps_is_one_span_and_one_that_goes_on_is_in_both_steps(
    clock: list[float], tmp_path: Path
) -> None:
    timeline = Timeline(tmp_path / "timeline.json")
    timeline.begin_step()
    clock[0] = 101.0
    with timeline.busy(GENERATOR, "sampling"):
        clock[0] = 102.0
        with timeline.busy(GENERATOR, "sampling"), timeline.busy(REWARDS, "scoring"):
            clock[0] = 103.0
        timeline.add(LEARNER, "training", 102.5, 103.0)
        clock[0] = 104.0
        timeline.end_step(1)
        clock[0] = 105.5
    clock[0] = 106.0
    timeline.end_step(2)
    assert written(tmp_path / "timeline.json") == [
        {
            "step": 1,
            "seconds": 4.0,
            "spans": [
                ["rewards", "scoring", 2.0, 3.0],
                ["learner", "training", 2.5, 3.0],
                ["generator", "sampling", 1.0, 4.0],
            ],
        },
        {"step": 2, "seconds": 2.0, "spans": [["generator", "sampling", 0.0, 1.5]]},
    ]


def test_the_share_in_which_an_actor_is_idle(clock: list[float]) -> None:
    timeline = Timeline()
    assert timeline.idle_share(GENERATOR) == 0.0, "there is nothing to compare with yet"
    with timeline.busy(GENERATOR, "sampling"):
        clock[0] += 1.0
    clock[0] += 3.0
    assert timeline.idle_share(GENERATOR) == 0.75
    with timeline.busy(GENERATOR, "sampling"):
        clock[0] += 2.0
        assert timeline.idle_share(GENERATOR) == 0.0
        clock[0] += 1.0
    clock[0] += 1.0
    assert timeline.idle_share(GENERATOR) == 0.5


def test_the_last_steps_are_kept_and_drawn(clock: list[float], tmp_path: Path) -> None:
    file, png = tmp_path / "timeline.json", tmp_path / "timeline.png"
    assert not draw_timeline(file, png, "grpo")
    timeline = Timeline(file)
    timeline.begin_step()
    for step in range(1, 9):
        for actor, part in ((GENERATOR, "sampling"), (REWARDS, "scoring"), (LEARNER, "weight_sync")):
            with timeline.busy(actor, part):
                clock[0] += 1.0
        timeline.end_step(step)
    assert [one["step"] for one in written(file)] == list(range(9 - KEPT, 9))
    assert draw_timeline(file, png, "grpo")
    assert png.read_bytes().startswith(b"\x89PNG")
