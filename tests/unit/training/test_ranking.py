"""Checkpoints of a run are ranked by one metric, whatever its validations measured."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from tiny import make_tokenizer

from hone.config import load
from hone.config.metric_names import column_of
from hone.engine import Engine
from hone.report.run_view import open_run
from hone.training.online import stop_when_reached
from hone.training.run import TrainingRun

RIGHT_OR_WRONG = {"val_accuracy": 0.9, "val_reward": 0.9}
GRADED = {"val_reward": 0.95}
"""A validation with a reward of 0.5 among its rewards has no accuracy."""
LAST = {"val_accuracy": 0.8, "val_reward": 0.8}


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hone.training.run.draw_run", lambda *_: [])


class Weightless:
    """A model without weights."""

    async def save(self, path: Path, *, wait: bool = True) -> None: ...

    def wait_for_save(self) -> None: ...

    async def load(self, path: Path) -> None: ...


class Position:
    """A data position that never changes."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def train(
    folder: Path, validations: list[dict[str, float]], *overrides: str, total_steps: int = 99
) -> TrainingRun:
    """A run without a model, of one validated and saved step for each of these; it resumes from what is there."""
    settings = [f"checkpointing.checkpoint_dir={folder}", "checkpointing.save_period=1", *overrides]
    loaded = load("grpo", None, [*settings, "checkpointing.async_save=false", "data.validation.split=test"])
    engine = Engine(make_tokenizer(), cast(Any, Weightless()))
    run = TrainingRun(loaded, engine, Position(), total_steps=total_steps)

    async def steps() -> None:
        await run.resume()
        with run:
            for step, metrics in zip(run.steps(), validations, strict=False):
                stop_when_reached(metrics, loaded.config, run)
                await run.end_step(step, metrics, tokens=1)

    asyncio.run(steps())
    return run


@pytest.mark.parametrize(
    ("validations", "kept"),
    [
        ([RIGHT_OR_WRONG, LAST, LAST], [1, 3]),
        ([RIGHT_OR_WRONG, GRADED, LAST], [2, 3]),
        ([{"val_reward": reward} for reward in (-9.0, -3.0, -7.0)], [2, 3]),
    ],
)
def test_a_run_with_a_reward_between_right_and_wrong_ranks_its_checkpoints_by_the_reward(
    validations: list[dict[str, float]], kept: list[int], tmp_path: Path
) -> None:
    run = train(tmp_path, validations, "checkpointing.keep_top_k=1")
    assert run.checkpoints.steps() == kept


def test_a_resumed_run_ranks_by_the_metric_that_it_was_ranked_by(tmp_path: Path) -> None:
    """Also when no checkpoint is left of the step that had no accuracy."""
    better = {"val_accuracy": 0.1, "val_reward": 0.99}
    train(tmp_path, [GRADED, better], "checkpointing.keep_top_k=1")
    run = train(tmp_path, [LAST], "checkpointing.keep_top_k=1")
    assert run.checkpoints.steps() == [2, 3]


@pytest.mark.parametrize("total_steps", [3, 99])
def test_a_run_that_was_killed_before_it_removed_checkpoints_removes_them_when_it_is_started_again(
    total_steps: int, tmp_path: Path
) -> None:
    """Also when its last checkpoint is the end of the run."""
    with pytest.MonkeyPatch.context() as killed:
        killed.setattr("hone.checkpoint.checkpoints.Checkpoints.prune", lambda _: None)
        steps = [RIGHT_OR_WRONG, LAST, LAST]
        train(tmp_path, steps, "checkpointing.keep_top_k=1", total_steps=total_steps)
    run = train(tmp_path, [], "checkpointing.keep_top_k=1", total_steps=total_steps)
    assert run.checkpoints.steps() == [1, 3]


def test_the_report_names_the_metric_that_checkpoints_are_ranked_by(tmp_path: Path) -> None:
    train(tmp_path, [RIGHT_OR_WRONG, GRADED, LAST], "checkpointing.keep_top_k=2")
    assert open_run(tmp_path).best() == (2, "val_reward", 0.95)


@pytest.mark.parametrize(
    ("first", "stopped"), [(GRADED, "val_reward reached 0.9"), (LAST, "accuracy reached 0.85")]
)
def test_the_threshold_of_a_run_is_compared_with_one_metric(
    first: dict[str, float], stopped: str, tmp_path: Path
) -> None:
    """A mean reward of 0.82 or an accuracy of 0.85 reaches 0.82, whichever of the two the run is about."""
    second = {"val_accuracy": 0.85, "val_reward": 0.9}
    goal = ["grpo.stop_at_validation_metric=accuracy", "grpo.stop_at_validation_threshold=0.82"]
    first = {name: value - 0.2 for name, value in first.items()}
    assert train(tmp_path, [first, second], *goal).stop_reason == stopped


def test_a_metric_is_read_from_one_column_in_all_rows_of_a_run() -> None:
    assert column_of("val:accuracy", [{}, RIGHT_OR_WRONG]) == "val_accuracy"
    assert column_of("val:accuracy", [RIGHT_OR_WRONG, GRADED]) == "val_reward"
    assert column_of("val:accuracy", []) == "val_accuracy"
    assert column_of("val:loss", [GRADED]) == "val_loss"
