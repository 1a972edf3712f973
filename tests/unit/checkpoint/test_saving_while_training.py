"""Training goes on while a checkpoint is written: it holds the state of the step it was begun at."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import layout, on_ranks, spread_tiny
from saving import ADAMW, checkpoints_of, learner_of, trained_learner
from tiny import PAD, make_model, make_samples, make_tokenizer, run, sft_config

from hone.algorithms import sft
from hone.checkpoint import io
from hone.checkpoint.checkpoints import Checkpoints
from hone.engine.local.learner import LocalLearner
from hone.errors import CheckpointError
from hone.model.mesh import Mesh


def begin_save(checkpoints: Checkpoints, step: int, learner: LocalLearner) -> None:
    run(
        checkpoints.begin_save(
            step,
            {"policy": learner},
            tokenizer=make_tokenizer(),
            state={"cursor": step},
            metrics={},
            ranked_by=None,
            config_yaml="policy: {}\n",
        )
    )


def held(learner: LocalLearner) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in learner.weights()}


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Files are written only once it is open."""
    opened, write = threading.Event(), io._write

    def later(*arguments: Any) -> None:
        assert opened.wait(60)
        write(*arguments)

    monkeypatch.setattr(io, "_write", later)
    return opened


def test_it_holds_what_was_there_when_it_was_begun(tmp_path: Path, gate: threading.Event) -> None:
    checkpoints, learner = checkpoints_of(tmp_path), trained_learner()
    before = held(learner)
    begin_save(checkpoints, 1, learner)
    run(sft.step(learner, make_samples(3, seed=1)))
    assert any(not torch.equal(tensor, before[name]) for name, tensor in learner.weights())
    assert checkpoints.steps() == []
    assert checkpoints.poll_save() is None
    gate.set()
    assert checkpoints.wait_for_save() == tmp_path / "step_1"
    assert checkpoints.slowest > 0
    other = learner_of(seed=1)
    assert run(checkpoints.load(1, {"policy": other}))["cursor"] == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.weights())
    run(sft.step(other, make_samples(3, seed=1)))  # the optimizer's state is that step's, too
    assert all(torch.equal(tensor, held(learner)[name]) for name, tensor in other.weights())


def test_one_at_a_time(tmp_path: Path, gate: threading.Event) -> None:
    checkpoints, learner = checkpoints_of(tmp_path), trained_learner()
    begin_save(checkpoints, 1, learner)
    threading.Timer(0.2, gate.set).start()
    begin_save(checkpoints, 2, learner)
    assert checkpoints.steps()[0] == 1, "the first was not waited for"
    checkpoints.wait_for_save()
    assert checkpoints.steps() == [1, 2]


def test_what_is_aborted_is_never_committed(tmp_path: Path, gate: threading.Event) -> None:
    checkpoints, learner = checkpoints_of(tmp_path), trained_learner()
    begin_save(checkpoints, 1, learner)
    pending = checkpoints._pending
    assert pending is not None
    checkpoints.abort_save()
    gate.set()
    pending.join()
    assert checkpoints.steps() == []
    assert checkpoints.wait_for_save() is None
    checkpoints.remove_incomplete()
    assert list(tmp_path.iterdir()) == []


def test_a_failure_meanwhile_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    checkpoints, learner = checkpoints_of(tmp_path), trained_learner()
    monkeypatch.setattr(io, "_write", fail)
    begin_save(checkpoints, 1, learner)
    with pytest.raises(CheckpointError, match="step_1: the disk is full"):
        checkpoints.wait_for_save()
    assert list(tmp_path.iterdir()) == []


def test_without_room_for_a_copy_it_is_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io, "_has_room_for_copies", lambda states: False)
    learner = trained_learner()
    run(learner.save(tmp_path, wait=False))
    assert (tmp_path / "weights" / ".metadata").is_file()
    learner.wait_for_save()


def train_and_save(mesh: Mesh, folder: Path) -> dict[str, torch.Tensor]:
    """A step, a checkpoint begun, two more steps beside it; what was held when it was begun."""
    learner = LocalLearner(spread_tiny(mesh, make_model), sft_config(optimizer=ADAMW).policy, pad_token=PAD)
    run(sft.step(learner, make_samples(5)))
    before = held(learner)
    run(learner.save(folder, wait=False))
    for seed in (1, 2):
        run(sft.step(learner, make_samples(5, seed=seed)))
    learner.wait_for_save()
    return before


def test_ranks_write_beside_their_training(tmp_path: Path) -> None:
    expected = on_ranks(layout(shard=2), train_and_save, tmp_path)[0]
    one = learner_of(seed=1)
    run(one.load(tmp_path))
    for name, tensor in one.weights():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)
