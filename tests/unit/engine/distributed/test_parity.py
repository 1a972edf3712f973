"""One process and several ranks train alike: losses and weights agree, however the work is spread."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from parity import ADAMW, UPDATES, Trained, compare
from ranks import layout, on_ranks, spread_tiny
from tiny import PAD, grpo_config, make_groups, make_model, make_samples, run, sft_config

from hone.algorithms import grpo, sft
from hone.config.schema.grpo import GRPOConfig
from hone.engine.local.learner import LocalLearner
from hone.model.mesh import Mesh
from hone.planning.parallel_dims import ParallelDims

MESHES = {
    "one rank": layout(),
    "dp2": layout(shard=2),
    "ddp2": layout(replicate=2),
    "dp3": layout(shard=3),
    "hsdp2x2": layout(replicate=2, shard=2),
    "tp2": layout(tensor=2),
    "cp2": layout(context=2),
    "dp2 x tp2": layout(shard=2, tensor=2),
}
WAYS: dict[str, dict[str, Any]] = {
    "one at a time": {"train_micro_batch_size": 1},
    "four at a time": {"train_micro_batch_size": 4},
    "by tokens": {"dynamic_batching": {"enabled": True, "train_mb_tokens": 40, "sequence_length_round": 8}},
    "packed": {"sequence_packing": {"enabled": True, "train_mb_tokens": 45}},
    "activations computed again": {"activation_checkpointing": True, "train_micro_batch_size": 4},
}


def train_sft(
    mesh: Mesh | None, kind: str, policy: dict[str, Any], sequence_parallel: bool = False
) -> Trained:
    """Metrics of each update and final weights, on ragged batches of 7."""
    config = sft_config(**{"optimizer": ADAMW, **policy}).policy

    def make() -> Any:
        model = make_model(kind)
        if config.activation_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return model

    model = make() if mesh is None else spread_tiny(mesh, make, sequence_parallel=sequence_parallel)
    learner = LocalLearner(model, config, pad_token=PAD)
    history = [run(sft.step(learner, make_samples(7, seed=update))) for update in range(UPDATES)]
    return history, {name: tensor.clone() for name, tensor in learner.weights()}


def train_grpo(mesh: Mesh | None, policy: dict[str, Any]) -> Trained:
    """Two optimizer steps on each batch of rollouts, a reference, a failed rollout, groups that share their prompt."""
    settings = {"optimizer": ADAMW, "train_global_batch_size": 5, **policy}
    loss = {"reference_policy_kl_penalty": 0.05, "use_importance_sampling_correction": True}
    config: GRPOConfig = grpo_config(policy=settings, loss_fn=loss)
    learners = []
    for frozen in (False, True):
        model = make_model("llama") if mesh is None else spread_tiny(mesh, partial(make_model, "llama"))
        learners.append(LocalLearner(model, config.policy, pad_token=PAD, frozen=frozen))
    history = []
    for update in range(UPDATES // 2):
        groups = make_groups(
            [[1.0, 0.0, 0.5, None], [0.0, 1.0, 1.0], [0.3, 0.1, 0.9]], seed=update, prompt_length=9
        )
        history.append(run(grpo.step(learners[0], learners[1], groups, config)))
    return history, {name: tensor.clone() for name, tensor in learners[0].weights()}


@pytest.mark.parametrize(
    "mesh",
    [
        pytest.param(mesh, id=name, marks=() if name == "dp2" else pytest.mark.slow)
        for name, mesh in MESHES.items()
    ],
)
def test_sft(mesh: ParallelDims) -> None:
    policy = {"train_micro_batch_size": 2}
    compare(train_sft(None, "llama", policy), on_ranks(mesh, partial(train_sft, kind="llama", policy=policy)))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES.keys())
def test_grpo(mesh: ParallelDims) -> None:
    policy = {"train_micro_batch_size": 4}
    compare(train_grpo(None, policy), on_ranks(mesh, partial(train_grpo, policy=policy)))


FEW = {name: MESHES[name] for name in ("dp3", "cp2", "dp2 x tp2")}


@pytest.mark.slow
@pytest.mark.parametrize("mesh", FEW.values(), ids=FEW.keys())
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_sft_in_every_way(way: dict[str, Any], mesh: ParallelDims) -> None:
    compare(train_sft(None, "llama", way), on_ranks(mesh, partial(train_sft, kind="llama", policy=way)))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", FEW.values(), ids=FEW.keys())
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_grpo_in_every_way(way: dict[str, Any], mesh: ParallelDims) -> None:
    compare(train_grpo(None, way), on_ranks(mesh, partial(train_grpo, policy=way)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral", "gemma2"])
def test_tensor_parallel_by_family(kind: str) -> None:
    """Tied and untied heads, biases, norms over heads, windows, a head that is not plain."""
    work = partial(train_sft, kind=kind, policy={"train_micro_batch_size": 3})
    compare(work(None), on_ranks(layout(tensor=2), work))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["four at a time", "packed", "activations computed again"])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_sequence_parallel(kind: str, way: str) -> None:
    work = partial(train_sft, kind=kind, policy=WAYS[way], sequence_parallel=True)
    compare(train_sft(None, kind, WAYS[way]), on_ranks(layout(tensor=2), work))


@pytest.mark.slow
def test_everything_at_once() -> None:
    work = partial(train_sft, kind="qwen3", policy=WAYS["packed"], sequence_parallel=True)
    mesh = layout(replicate=2, context=2, tensor=2)
    compare(train_sft(None, "qwen3", WAYS["packed"]), on_ranks(mesh, work))


def test_more_ranks_than_samples() -> None:
    """Ranks without samples take part with weight zero."""

    def one_sample(mesh: Mesh | None) -> Trained:
        model = make_model() if mesh is None else spread_tiny(mesh, make_model)
        learner = LocalLearner(model, sft_config(optimizer=ADAMW).policy, pad_token=PAD)
        history = [run(sft.step(learner, make_samples(1, seed=update))) for update in range(3)]
        return history, dict(learner.weights())

    compare(one_sample(None), on_ranks(layout(shard=3), one_sample))
