"""PPO trains alike in every layout and on every mesh: policy and value model, several epochs, a reference."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from parity import ADAMW, make_scalar
from ranks import on_meshes, on_ranks, spread_tiny
from tiny import PAD, WAYS, make_groups, make_model, run

from hone.algorithms import ppo
from hone.config.schema.ppo import PPOConfig
from hone.engine.local.learner import LocalLearner
from hone.model.mesh import Mesh
from hone.planning.parallel_dims import ParallelDims

STEPS = 5
TrainedValues = tuple[list[dict[str, float]], list[dict[str, torch.Tensor]]]


def train(mesh: Mesh | None, way: dict[str, Any]) -> TrainedValues:
    """Two epochs of two minibatches on each of five rollouts, KL in the reward, one completion that failed."""
    shared = {"precision": "float32", "max_total_sequence_length": 64, "train_global_batch_size": 5}
    config = PPOConfig(
        policy=shared | {"optimizer": ADAMW} | way,
        value=shared | {"optimizer": ADAMW} | way,
        ppo={"ppo_epochs": 2, "adv_estimator": {"gae_lambda_value": 1.0, "length_adaptive_alpha": 0.5}},
        loss_fn={"reference_policy_kl_penalty": 0.05, "use_kl_in_reward": True},
    )

    def learner(make: Any, policy: Any, frozen: bool = False) -> LocalLearner:
        model = make() if mesh is None else spread_tiny(mesh, make)
        return LocalLearner(model, policy, pad_token=PAD, frozen=frozen)

    policy = learner(partial(make_model, "llama"), config.policy)
    reference = learner(partial(make_model, "llama", seed=1), config.policy, frozen=True)
    value = learner(make_scalar, config.value)
    history = []
    for number in range(1, STEPS + 1):
        groups = make_groups(
            [[1.0, 0.0, 0.5, None], [0.0, 1.0, 1.0], [0.3, 0.1, 0.9]], seed=number, prompt_length=9
        )
        history.append(run(ppo.step(policy, reference, value, groups, config, step_number=number)))
    return history, [{name: t.clone() for name, t in model.weights()} for model in (policy, value)]


def compare_values(one: TrainedValues, several: list[TrainedValues], tolerance: float = 1e-5) -> None:
    for history, models in several:
        for ours, theirs in zip(history, one[0], strict=True):
            assert ours.keys() == theirs.keys()
            for name in ours:
                # A clip that one token more or less passes moves the norm before it moves anything else.
                near = 10 * tolerance if name.endswith("grad_norm") else tolerance
                assert ours[name] == pytest.approx(theirs[name], rel=near, abs=near), name
        for weights, expected in zip(models, one[1], strict=True):
            assert weights.keys() == expected.keys()
            for name, weight in weights.items():
                torch.testing.assert_close(weight, expected[name], rtol=0, atol=tolerance)
    for history, _ in several[1:]:
        assert history == several[0][0], "ranks report different numbers"


def one_process() -> TrainedValues:
    return train(None, WAYS["one at a time"])


@pytest.mark.slow
@pytest.mark.parametrize("way", list(WAYS.values())[1:], ids=list(WAYS)[1:])
def test_layouts(way: dict[str, Any]) -> None:
    compare_values(one_process(), [train(None, way)])


@on_meshes(quick=None)
def test_ranks(mesh: ParallelDims) -> None:
    compare_values(one_process(), on_ranks(mesh, partial(train, way={"train_micro_batch_size": 2})))


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@on_meshes()
def test_layouts_on_ranks(way: dict[str, Any], mesh: ParallelDims) -> None:
    compare_values(one_process(), on_ranks(mesh, partial(train, way=way)))
