"""SAPO's gate, the entropy bonus and the mask of high entropies: hand-worked numbers, and no trace of micro-batches."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny import WAYS, gradients, grpo_config, largest_gap, make_groups, make_learner, make_model, run

from hone.algorithms import entropy_mask, grpo
from hone.algorithms.policy_loss import PolicyLoss
from hone.config.schema import LossConfig
from tests.unit.algorithms.test_grpo_loss import surrogate

REWARDS: list[list[float | None]] = [[1.0, 0.0, 0.25, None], [0.1, 0.2, 0.3, 0.7]]


def test_sapo_by_hand() -> None:
    # A = 2, tau 1, r = 1.5: 4 sigmoid(0.5) = 2.489837; A = -1, tau 2, r = 0.5: 2 sigmoid(-1) = 0.537883
    result = surrogate(
        [1.5, 0.5], [2.0, -1.0], [1, 1], use_sapo=True, sapo_temperature_pos=1.0, sapo_temperature_neg=2.0
    )
    assert result.loss == pytest.approx((-2 * 2.489837 + 0.537883) / 2, rel=1e-6)
    # d gate / d r = 4 s (1 - s), times d r / d log pi = r
    s, n = 1 / (1 + math.exp(-0.5)), 1 / (1 + math.exp(1.0))
    expected = [-2 * 4 * s * (1 - s) * 1.5 / 2, 1 * 4 * n * (1 - n) * 0.5 / 2]
    assert result.gradient == pytest.approx(expected, rel=1e-6)


def test_on_policy_sapo_has_the_gradient_of_the_plain_surrogate() -> None:
    plain = surrogate([1.0, 1.0], [2.0, -1.0], [1, 1])
    soft = surrogate([1.0, 1.0], [2.0, -1.0], [1, 1], use_sapo=True)
    assert soft.gradient == pytest.approx(plain.gradient, rel=1e-12)


def test_sapo_fades_where_the_clip_cuts() -> None:
    gradients_at = [
        abs(surrogate([r], [1.0], [1], use_sapo=True).gradient[0]) / r for r in (1.0, 2.0, 4.0, 8.0)
    ]
    assert gradients_at == sorted(gradients_at, reverse=True)
    assert gradients_at[-1] > 0
    assert surrogate([2.0], [1.0], [1]).gradient == [0]


def test_the_loss_asks_for_entropies_only_when_they_count() -> None:
    assert not PolicyLoss(LossConfig()).needs_entropy
    assert PolicyLoss(LossConfig(entropy_coef=0.01)).needs_entropy
    assert not PolicyLoss(
        LossConfig(top_entropy_quantile=0.2)
    ).needs_entropy  # those come before the backward


# ---- through the learner ----


def one_step(
    loss_fn: dict[str, Any], policy: dict[str, Any]
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Metrics of a GRPO step, and the weights after it."""
    settings = {"train_global_batch_size": 8, "logprob_batch_size": 3, **policy}
    config = grpo_config(
        policy=settings, loss_fn={"reference_policy_kl_penalty": 0.0, **loss_fn}, grpo={"seed": 0}
    )
    learner = make_learner(make_model("llama"), config.policy)
    metrics = run(grpo.step(learner, None, make_groups(REWARDS), config))
    return metrics, {name: tensor.clone() for name, tensor in learner.weights()}


@pytest.mark.parametrize(
    "loss_fn",
    [
        {"entropy_coef": 0.3},
        {"top_entropy_quantile": 0.3},
        {"top_entropy_quantile": 0.3, "entropy_coef": 0.1},
        {"use_sapo": True, "token_level_loss": False},
    ],
    ids=["bonus", "mask", "both", "sapo"],
)
def test_the_layout_changes_nothing(loss_fn: dict[str, Any]) -> None:
    first, *others = [one_step(loss_fn, way) for way in WAYS.values()]
    for metrics, weights in others:
        assert metrics == pytest.approx(first[0], rel=1e-4, abs=1e-5)
        assert all((weights[name] - first[1][name]).abs().max() < 1e-5 for name in weights)


def test_a_bonus_raises_the_entropy() -> None:
    def entropy_after(coefficient: float) -> float:
        config = grpo_config(
            policy={"train_global_batch_size": 8, "optimizer": {"kwargs": {"lr": 3e-3}}},
            loss_fn={"reference_policy_kl_penalty": 0.0, "entropy_coef": coefficient},
        )
        learner = make_learner(make_model("llama"), config.policy)
        for _ in range(5):
            run(grpo.step(learner, None, make_groups(REWARDS), config))
        samples = [s for s in grpo.policy_loss.samples_per_rollout(make_groups(REWARDS)) if s is not None]
        return float(torch.cat(run(learner.entropies(samples))).mean())

    assert entropy_after(1.0) > entropy_after(0.0) + 0.05


def test_the_mask_takes_the_top_share_of_the_whole_batch() -> None:
    learner = make_learner(make_model("llama"))
    samples = [s for s in grpo.policy_loss.samples_per_rollout(make_groups(REWARDS)) if s is not None]
    entropies = torch.cat(run(learner.entropies(samples)))
    metrics = run(entropy_mask.mark(learner, samples, 0.2))
    marked = torch.cat([sample.token_columns["high_entropy"] for sample in samples])
    threshold = torch.quantile(entropies.double(), 0.8)
    assert torch.equal(marked.bool(), entropies >= threshold)
    assert metrics["entropy"] == pytest.approx(float(entropies.mean()))
    assert metrics["high_entropy_share"] == pytest.approx(0.2, abs=1.5 / len(entropies))


def test_what_is_masked_has_no_gradient_and_still_counts() -> None:
    """The gradient of the whole loss is that of a loss whose advantage is 0 at masked tokens."""
    config = grpo_config(
        policy={"train_global_batch_size": 8},
        loss_fn={"reference_policy_kl_penalty": 0.0, "top_entropy_quantile": 0.4},
    )
    samples = [s for s in grpo.policy_loss.samples_per_rollout(make_groups(REWARDS)) if s is not None]
    found = []
    for by_hand in (False, True):
        learner = make_learner(make_model("llama"), config.policy)
        for index, sample in enumerate(samples):
            sample.token_columns.pop("advantage", None)
            sample.sequence_columns["advantage"] = 1.0 - 0.3 * index
        run(entropy_mask.mark(learner, samples, 0.4))
        if by_hand:
            for sample in samples:
                mask_T = sample.token_columns.pop("high_entropy")
                sample.token_columns["advantage"] = mask_T * sample.sequence_columns["advantage"]
        run(learner.forward_backward(samples, PolicyLoss(config.loss_fn, on_policy=True)))
        found.append(gradients(learner.model))
    assert largest_gap(*found) < 1e-5
