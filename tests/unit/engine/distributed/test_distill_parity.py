"""Distillation trains alike in every layout and on every mesh: the teacher's top k, and the student's updates."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from parity import ADAMW, TrainedValues, compare_values
from ranks import on_meshes, on_ranks, spread_tiny
from tiny import PAD, WAYS, make_groups, make_model, run

from hone.algorithms import distill
from hone.config.schema.distill import DistillConfig
from hone.engine.local.learner import LocalLearner
from hone.model.mesh import Mesh
from hone.planning.parallel_dims import ParallelDims

UPDATES = 6
LOSSES: dict[str, dict[str, Any]] = {
    "mixed": {"kl_type": "mixed", "zero_outside_topk": True},
    "jsd": {"kl_type": "jsd", "jsd_beta": 0.3},
}


def train(mesh: Mesh | None, way: dict[str, Any], loss: dict[str, Any]) -> TrainedValues:
    """Prompts that completions share, one of them left out, two updates a rollout."""
    shared = {"precision": "float32", "max_total_sequence_length": 64, "train_global_batch_size": 5}
    shared["train_micro_batch_size"] = (
        1  # where `way` fills micro-batches by tokens, the teacher's budget follows it
    )
    config = DistillConfig(
        policy={**shared, "optimizer": ADAMW, **way}, distillation={"topk_logits_k": 6}, loss_fn=loss
    )

    def learner(seed: int, settings: Any, frozen: bool = False) -> LocalLearner:
        make = partial(make_model, seed=seed)
        model = make() if mesh is None else spread_tiny(mesh, make)
        return LocalLearner(model, settings, pad_token=PAD, frozen=frozen)

    student = learner(0, config.policy)
    teacher = learner(1, config.teacher.as_model_config(config.policy), frozen=True)
    history = []
    for number in range(UPDATES // 2):
        groups = make_groups([[None] * 4, [None] * 3, [None] * 3], seed=number, prompt_length=9)
        groups[0].rollouts[3].excluded = "truncated"
        samples = distill.trainable_samples(groups)
        history.append(run(distill.step(student, teacher, samples, config)))
    samples = distill.trainable_samples(make_groups([[None]], seed=99))
    read = [values for values, _ in run(teacher.topk_logprobs(samples, 6))]
    return history, {name: tensor.clone() for name, tensor in student.weights()}, read


def one_process(loss: str = "mixed") -> TrainedValues:
    return train(None, WAYS["one at a time"], LOSSES[loss])


@pytest.mark.parametrize("way", list(WAYS.values())[1:], ids=list(WAYS)[1:])
def test_layouts(way: dict[str, Any]) -> None:
    compare_values(one_process(), [train(None, way, LOSSES["mixed"])])


@pytest.mark.slow
@on_meshes()
def test_ranks(mesh: ParallelDims) -> None:
    way = WAYS["five at a time"]
    compare_values(one_process(), on_ranks(mesh, partial(train, way=way, loss=LOSSES["mixed"])))


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@on_meshes()
def test_layouts_on_ranks(way: dict[str, Any], mesh: ParallelDims) -> None:
    compare_values(one_process("jsd"), on_ranks(mesh, partial(train, way=way, loss=LOSSES["jsd"])))
