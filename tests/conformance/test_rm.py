"""The reward model's loss and gradient against TRL's RewardTrainer on the same scores, and against numbers by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import make_batch
from torch import Tensor, nn

from hone.algorithms.losses.reward_model_losses import bradley_terry_loss, ranking_of, regression_loss
from hone.types import Outputs, Totals


class Given(nn.Module):
    """Stands for a model whose scores are given."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)

    def forward(self, **_: Any) -> Any:
        return SimpleNamespace(logits=self.scores[:, None])


def trl(
    chosen: Tensor, rejected: Tensor, margin: Tensor | None, center: float | None
) -> tuple[float, Tensor]:
    """Loss and gradient by TRL's own code."""
    trainer = pytest.importorskip("trl").RewardTrainer
    model = Given(torch.cat([chosen, rejected]))
    same = SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x)
    metrics: Any = {mode: dict.fromkeys(()) for mode in ("train", "eval")}
    names = ("min_reward", "mean_reward", "max_reward", "accuracy", "margin")
    metrics = {mode: {name: [] for name in names} for mode in metrics}
    stand_in = SimpleNamespace(
        model=model,
        args=SimpleNamespace(center_rewards_coefficient=center),
        accelerator=same,
        _metrics=metrics,
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {"attention_mask": torch.ones(2, 2), **({"margin": margin} if margin is not None else {})}
    loss = trainer.compute_loss(stand_in, model, inputs)
    loss.backward()
    return float(loss), model.scores.grad


def ours(
    chosen: Tensor, rejected: Tensor, margin: Tensor | None, center: float | None
) -> tuple[float, Tensor]:
    count = len(chosen)
    scores = torch.stack([chosen, rejected], 1).flatten().requires_grad_()
    margins = torch.zeros(count) if margin is None else margin
    columns = {"pair": [1.0] * (2 * count), "margin": margins.repeat_interleave(2).tolist()}
    batch = make_batch([1] * (2 * count), per_sequence=columns)
    totals = Totals(2 * count, 2 * count, {"pair": 2.0 * count})
    loss = bradley_terry_loss(Outputs(scores * math.nan, values_N=scores), batch, totals, center=center).loss
    loss.backward()
    assert scores.grad is not None
    return loss.item(), torch.cat([scores.grad[0::2], scores.grad[1::2]])


@pytest.mark.parametrize("center", [None, 0.01, 0.5])
@pytest.mark.parametrize("margin", [False, True])
def test_loss_and_gradient_are_trls(margin: bool, center: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = (3 * torch.randn(17, generator=generator) for _ in range(2))
    given = torch.rand(17, generator=generator) if margin else None
    (loss, grad), (their_loss, their_grad) = (
        function(chosen, rejected, given, center) for function in (ours, trl)
    )
    assert loss == pytest.approx(their_loss, abs=1e-6)
    torch.testing.assert_close(grad, their_grad, rtol=0, atol=1e-6)


def test_extreme_scores_stay_finite() -> None:
    loss, grad = ours(torch.tensor([1e4]), torch.tensor([-1e4]), None, None)
    assert loss == 0
    loss, grad = ours(torch.tensor([-1e4]), torch.tensor([1e4]), None, None)
    assert loss == pytest.approx(2e4)
    assert torch.isfinite(grad).all()


def test_numbers_by_hand() -> None:
    loss, _ = ours(torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([1.0]), 0.25)
    assert loss == pytest.approx(math.log(2) + 0.25)
    columns = {"row": [1.0, 1.0, 0.0], "target": [1.0, 0.0, 0.0]}
    batch = make_batch([1, 1, 0], per_sequence=columns)
    values = torch.tensor([3.0, 0.5])
    out = regression_loss(Outputs(values, values_N=values), batch, Totals(2, 2, {"row": 2.0}))
    assert float(out.loss) == pytest.approx((4 + 0.25) / 2)
    assert float(out.metrics["absolute_error"]) == pytest.approx(1.25)


def test_a_silent_pair_weighs_nothing() -> None:
    columns = {"pair": [1.0, 1.0, 0.0, 0.0], "margin": [0.0] * 4}
    batch = make_batch([1, 1, 0, 0], per_sequence=columns)
    values = torch.tensor([2.0, 0.0])
    outputs = Outputs(values, values_N=values)
    out = bradley_terry_loss(outputs, batch, Totals(2, 2, {"pair": 2.0}), center=0.1)
    assert float(out.loss) == pytest.approx(math.log1p(math.exp(-2)) + 0.4)
    assert float(out.metrics["reward_accuracy"]) == 1


def test_ranking_by_hand() -> None:
    """Four pairs of confidence 0.8, three of them right; one sure one that is right; one tie."""
    sure = math.log(4.0)
    gaps = torch.tensor([sure, sure, sure, -sure, 20.0, 0.0])
    ranking = ranking_of(gaps, torch.zeros(6))
    assert ranking.accuracy == pytest.approx(4 / 6)
    assert ranking.margin == pytest.approx((2 * sure + 20) / 6)
    expected = [(0.5, 0.0, 1), (0.8, 0.75, 4), (1.0, 1.0, 1)]
    assert [pytest.approx(found) for found in ranking.bins] == expected
    assert ranking.calibration_error == pytest.approx((4 * 0.05 + 1 * 0.5) / 6)


def test_scores_drawn_from_the_model_are_calibrated() -> None:
    generator = torch.Generator().manual_seed(1)
    gap = 2 * torch.randn(20_000, generator=generator)
    flips = torch.where(torch.rand(20_000, generator=generator) < torch.sigmoid(gap), 1.0, -1.0)
    assert ranking_of(gap * flips, torch.zeros(20_000)).calibration_error < 0.02
    assert ranking_of(3 * gap * flips, torch.zeros(20_000)).calibration_error > 0.1
