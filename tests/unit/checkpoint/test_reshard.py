"""A checkpoint belongs to no mesh: a run goes on from it on more ranks or fewer, tensor parallel or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import layout, on_ranks, spread_tiny
from tiny import PAD, make_model, make_samples, run, sft_config

from hone.algorithms import sft
from hone.engine.local.learner import LocalLearner
from hone.model.mesh import Mesh
from hone.planning.parallel_dims import ParallelDims

ADAMW = {"name": "torch.optim.AdamW", "kwargs": {"lr": 1e-3, "weight_decay": 0.01, "eps": 1e-4}}
SCHEDULE = {"name": "torch.optim.lr_scheduler.LinearLR", "kwargs": {"total_iters": 30}}
LEG = 5
"""Updates between one checkpoint and the next."""


def leg(mesh: Mesh | None, folder: Path, number: int) -> list[float]:
    """Some updates from the checkpoint of the leg before, and a checkpoint; the losses."""
    model = make_model("qwen3") if mesh is None else spread_tiny(mesh, lambda: make_model("qwen3"))
    policy = sft_config(optimizer=ADAMW, scheduler=SCHEDULE, train_micro_batch_size=3).policy
    learner = LocalLearner(model, policy, pad_token=PAD)
    if number:
        run(learner.load(folder / str(number - 1)))
    losses = [
        run(sft.step(learner, make_samples(7, seed=number * LEG + update)))["loss"] for update in range(LEG)
    ]
    run(learner.save(folder / str(number)))
    return losses


def journey(folder: Path, meshes: list[ParallelDims | None]) -> tuple[list[float], dict[str, Any]]:
    """Losses over all legs, and the weights after the last as one process reads them."""
    losses: list[float] = []
    for number, mesh in enumerate(meshes):
        args = (folder, number)
        losses += leg(None, *args) if mesh is None else on_ranks(mesh, leg, *args)[0]
    policy = sft_config(optimizer=ADAMW, scheduler=SCHEDULE).policy
    last = LocalLearner(make_model("qwen3", seed=9), policy, pad_token=PAD)
    run(last.load(folder / str(len(meshes) - 1)))
    return losses, dict(last.weights())


TWO, FOUR, TENSOR = layout(shard=2), layout(shard=4), layout(tensor=2)
BOTH, REPLICAS = layout(shard=2, tensor=2), layout(replicate=2)


@pytest.mark.parametrize(
    "meshes",
    [
        pytest.param([TWO, None, FOUR], id="2 -> 1 -> 4", marks=pytest.mark.slow),
        pytest.param([None, TENSOR, TWO], id="1 -> tp2 -> dp2", marks=pytest.mark.slow),
        pytest.param(
            [layout(shard=2, tensor=2), layout(replicate=2), None],
            id="dp2 x tp2 -> ddp2 -> 1",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_losses_go_on_as_if_nothing_had_changed(
    meshes: list[ParallelDims | None], tmp_path: Path
) -> None:
    losses, weights = journey(tmp_path / "several", meshes)
    alone, expected = journey(tmp_path / "alone", [None] * len(meshes))
    assert losses == pytest.approx(alone, rel=1e-5, abs=1e-5)
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=1e-5)


def dropping(mesh: Mesh, folder: Path) -> tuple[list[float], list[float]]:
    """Losses after a checkpoint, going on and going on from it, with dropout."""

    def fresh() -> LocalLearner:
        model = spread_tiny(mesh, lambda: make_model("llama", attention_dropout=0.3))
        return LocalLearner(model, sft_config(optimizer=ADAMW).policy, pad_token=PAD)

    def train(learner: LocalLearner, first: int) -> list[float]:
        return [run(sft.step(learner, make_samples(7, seed=first + i)))["loss"] for i in range(3)]

    learner = fresh()
    train(learner, 0)
    run(learner.save(folder))
    went_on = train(learner, 3)
    torch.manual_seed(99)
    resumed = fresh()
    run(resumed.load(folder))
    return went_on, train(resumed, 3)


@pytest.mark.slow
def test_dropout_goes_on_from_where_each_rank_was(tmp_path: Path) -> None:
    for went_on, resumed in on_ranks(layout(shard=2), dropping, tmp_path):
        assert went_on == resumed
