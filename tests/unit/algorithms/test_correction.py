"""The gap between generator and learner: its weights and its metrics, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import make_batch

from hone.algorithms.importance_sampling import corrected, mismatch
from hone.algorithms.policy_loss import PolicyLoss
from hone.config.schema import LossConfig
from hone.types import Outputs, Totals

# Ratios (2, 1/2) and (4, 4): products 1 and 16; geometric means 1 and 4
RATIOS = torch.tensor([2.0, 0.5, 4.0, 4.0])
TOTALS = Totals(tokens=4, sequences=2)


def settings(
    kind: str | None, high: float | None, low: float | None = None, level: str | None = None
) -> LossConfig:
    return LossConfig(
        use_importance_sampling_correction=True,
        truncated_importance_sampling_type=kind,  # type: ignore[arg-type]
        truncated_importance_sampling_ratio=high,
        truncated_importance_sampling_ratio_min=low,
        truncated_importance_sampling_level=level,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("kind", "high", "low", "level", "expected", "outside"),
    [
        (None, None, None, "token", [2, 0.5, 4, 4], 0),
        (None, 3.0, None, "token", [2, 0.5, 3, 3], 2 / 4),
        ("tis", 3.0, None, "token", [2, 0.5, 3, 3], 2 / 4),
        ("tis", 3.0, 0.8, "token", [2, 0.8, 3, 3], 3 / 4),
        ("tis", 3.0, None, "sequence", [1, 1, 3, 3], 1 / 2),
        ("icepop", 3.0, 0.75, "token", [2, 0, 0, 0], 3 / 4),
        ("icepop", 16.0, 2.0, "sequence", [0, 0, 16, 16], 1 / 2),
        ("seq-mask-tis", 3.0, 0.5, "token", [2, 0.5, 0, 0], 1 / 2),
        ("seq-mask-tis", 4.5, 2.0, "token", [0, 0, 4, 4], 1 / 2),
        # judged by the geometric mean 4, not by the product 16
        ("seq-mask-tis", 4.5, 2.0, "sequence", [0, 0, 16, 16], 1 / 2),
    ],
)
def test_weights(
    kind: str | None, high: float | None, low: float | None, level: str, expected: list[float], outside: float
) -> None:
    batch = make_batch([2, 2])
    found = corrected(RATIOS.log().requires_grad_(), batch, settings(kind, high, low, level))
    assert found.weight_N.tolist() == pytest.approx(expected)
    assert not found.weight_N.requires_grad
    metrics = {name: value.item() for name, value in found.metrics(batch, TOTALS).items()}
    assert metrics == pytest.approx({"sampling_importance_ratio": sum(expected) / 4, "is_oob_ratio": outside})


@pytest.mark.parametrize(("by_sequence", "expected"), [(False, [2, 0.5, 4, 4]), (True, [1, 1, 16, 16])])
def test_unsaid_the_level_is_that_of_the_ratio(by_sequence: bool, expected: list[float]) -> None:
    config = LossConfig(use_importance_sampling_correction=True, sequence_level_importance_ratios=by_sequence)
    assert corrected(RATIOS.log(), make_batch([2, 2]), config).weight_N.tolist() == pytest.approx(expected)


def test_mismatch() -> None:
    # learner 1/2, generator 1/8: d = ln 4. KL(generator || learner): 4 - 1 - ln 4; the other way 1/4 - 1 + ln 4.
    # Mixture 5/16: half of (1/2)/(5/16) - 1 - ln(8/5) and (1/8)/(5/16) - 1 - ln(2/5)
    found = mismatch(torch.tensor([0.5]).log(), torch.tensor([0.125]).log())
    expected = {
        "generation_mismatch": math.log(4),
        "token_mult_prob_error": 4.0,
        "gen_kl_error": 3 - math.log(4),
        "policy_kl_error": -0.75 + math.log(4),
        "js_divergence_error": (0.6 - math.log(1.6) - 0.6 - math.log(0.4)) / 2,
    }
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, rel=1e-5)
    none = {
        name: value.item() for name, value in mismatch(torch.tensor([-1.0]), torch.tensor([-1.0])).items()
    }
    assert none == pytest.approx({**dict.fromkeys(none, 0.0), "token_mult_prob_error": 1.0}, abs=1e-6)


def test_metrics_of_a_loss_are_those_of_the_whole_batch_however_it_is_cut() -> None:
    loss = PolicyLoss(settings("icepop", 3.0, 0.75), on_policy=True)
    logprobs = torch.tensor([-1.0, -2.0, -0.5, -0.3])
    columns = {"generation_logprobs": logprobs - RATIOS.log()}
    whole = loss(Outputs(logprobs), make_batch([2, 2], columns, {"advantage": [1.0, -1.0]}), TOTALS)
    halves = [
        loss(
            Outputs(logprobs[rows]),
            make_batch(
                [2], {"generation_logprobs": columns["generation_logprobs"][rows]}, {"advantage": [a]}
            ),
            TOTALS,
        )
        for rows, a in ((slice(0, 2), 1.0), (slice(2, 4), -1.0))
    ]
    assert whole.largest["sampling_importance_ratio_max"].item() == pytest.approx(4.0)
    assert whole.largest["generation_mismatch_max"].item() == pytest.approx(math.log(4))
    for name, value in whole.metrics.items():
        assert sum(half.metrics[name].item() for half in halves) == pytest.approx(value.item()), name
    for name, value in whole.largest.items():
        assert max(half.largest[name].item() for half in halves) == pytest.approx(value.item()), name
    assert sum(half.loss.item() for half in halves) == pytest.approx(whole.loss.item())
