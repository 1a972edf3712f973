"""A reward model's loss on pairs is the same on one process and several ranks, whatever the layout."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from parity import ADAMW, TrainedValues, compare_values, make_scalar
from ranks import layout, on_meshes, on_ranks, spread_tiny
from tiny import PAD, VOCABULARY, run, sft_config

from hone.algorithms import rm
from hone.engine.local.learner import LocalLearner
from hone.model.mesh import Mesh
from hone.planning.parallel_dims import ParallelDims
from hone.types import Sample

UPDATES = 8
WAYS: dict[str, dict[str, Any]] = {
    "one pair at a time": {"train_micro_batch_size": 1},
    "three pairs at a time": {"train_micro_batch_size": 3},
    "by tokens": {"dynamic_batching": {"enabled": True, "train_mb_tokens": 70, "sequence_length_round": 8}},
    "packed": {"sequence_packing": {"enabled": True, "train_mb_tokens": 70}},
}


def pairs(count: int, seed: int) -> list[Sample]:
    """Ragged pairs behind a common prompt, with a margin each."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(least: int, most: int) -> torch.Tensor:
        length = int(torch.randint(least, most + 1, (1,), generator=generator))
        return torch.randint(2, VOCABULARY, (length,), generator=generator)

    samples = []
    for index in range(count):
        prompt = tokens(4, 12)
        columns = {"label": 1.0, "margin": float(torch.rand(1, generator=generator))}
        for side in ("chosen", "rejected"):
            whole = torch.cat([prompt, tokens(1, 8)])
            mask = torch.arange(len(whole)) >= len(prompt)
            unit = f"row{index}"
            samples.append(
                Sample(f"{unit}:{side}", whole, mask, {}, columns, group=unit, prefix=len(prompt), unit=unit)
            )
    return samples


def train(mesh: Mesh | None, policy: dict[str, Any], count: int = 5) -> TrainedValues:
    config = sft_config(**{"optimizer": ADAMW, **policy}).policy
    model = make_scalar() if mesh is None else spread_tiny(mesh, make_scalar)
    learner = LocalLearner(model, config, pad_token=PAD)
    objective = rm.RewardModelObjective(PAD, center=0.05)
    history = [run(rm.step(learner, pairs(count, seed), objective)) for seed in range(UPDATES)]
    history.append(run(rm.measure(learner, pairs(7, 99), objective)))
    values = run(learner.forward(objective.prepared(pairs(3, 98))))
    return history, {name: tensor.clone() for name, tensor in learner.weights()}, values


def one_process() -> TrainedValues:
    return train(None, {"train_micro_batch_size": 1})


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_layouts(way: dict[str, Any]) -> None:
    compare_values(one_process(), [train(None, way)])


@pytest.mark.slow
@on_meshes()
def test_ranks(mesh: ParallelDims) -> None:
    compare_values(one_process(), on_ranks(mesh, partial(train, policy={"train_micro_batch_size": 2})))


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@on_meshes()
def test_layouts_on_ranks(way: dict[str, Any], mesh: ParallelDims) -> None:
    compare_values(one_process(), on_ranks(mesh, partial(train, policy=way)))


def test_more_ranks_than_pairs() -> None:
    alone = train(None, {"train_micro_batch_size": 1}, 1)
    compare_values(
        alone, on_ranks(layout(shard=2), partial(train, policy={"train_micro_batch_size": 1}, count=1))
    )


def test_a_text_that_ends_in_padding_is_scored_where_transformers_scores_it() -> None:
    """Where the end-of-sequence token pads, too, it is no part of what is read."""
    model = make_scalar().eval()
    learner = LocalLearner(model, sft_config().policy, pad_token=PAD)
    for tail in ([], [PAD], [PAD, PAD]):
        text = torch.tensor([5, 9, PAD, 7, *tail])
        mask = torch.arange(len(text)) > 1
        (value,) = run(learner.forward([rm.append_score_token(Sample("x", text, mask), pad=PAD)]))
        assert float(value) == pytest.approx(model(text[None]).logits.item(), abs=1e-6)
