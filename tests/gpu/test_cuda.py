"""On a CUDA device: offload, precision and the sampling of a card agree with what a CPU computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ranks import spread_tiny
from tiny import PAD, make_model, make_samples, run, sft_config

from hone.algorithms import sft
from hone.engine.local.learner import LocalLearner
from hone.model.mesh import mesh_of_one

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
UPDATES = 5


def trained(model: Any, **policy: Any) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of some updates, and the weights after them, in host memory."""
    learner = LocalLearner(model, sft_config(**policy).policy, pad_token=PAD)
    losses = [run(sft.step(learner, make_samples(6, seed=n)))["loss"] for n in range(UPDATES)]
    return losses, {name: tensor.detach().cpu() for name, tensor in learner.weights()}


def near(ours: tuple[Any, Any], theirs: tuple[Any, Any], tolerance: float) -> None:
    assert ours[0] == pytest.approx(theirs[0], abs=tolerance)
    for name, tensor in theirs[1].items():
        torch.testing.assert_close(ours[1][name], tensor, rtol=0, atol=tolerance)


def test_a_card_and_a_cpu_train_alike() -> None:
    near(trained(make_model().cuda()), trained(make_model()), 1e-4)


def test_offloaded_weights_train_alike_and_leave_the_card() -> None:
    expected = trained(make_model().cuda())
    mesh = mesh_of_one("cuda")
    scorer = spread_tiny(mesh, make_model, device=torch.device("cuda", 0), cpu_offload=True)
    assert {parameter.device.type for parameter in scorer.parameters()} == {"cpu"}
    assert scorer.device.type == "cuda"
    near(trained(scorer), expected, 1e-5)


def test_bfloat16_stays_near_fp32() -> None:
    ours, theirs = trained(make_model().cuda(), precision="bfloat16"), trained(make_model().cuda())
    assert ours[0] == pytest.approx(theirs[0], rel=0.02)
