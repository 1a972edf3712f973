"""What each KL term's expected gradient is, against one that is enumerated over a vocabulary of five tokens.

A policy of five logits; a token is drawn from `sampled_from`, and the loss of every token that may come is weighed by
its probability: the expectation is exact. Compared are gradients by the logits.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny import make_batch
from torch import Tensor

from hone.algorithms.losses import kl
from hone.algorithms.policy_loss import PolicyLoss
from hone.config.schema import LossConfig
from hone.types import Outputs, Totals

LOGITS = torch.tensor([0.3, -1.0, 0.8, 0.1, -0.4], dtype=torch.float64)
REFERENCE = torch.tensor([0.9, 0.2, -0.7, -0.1, 0.4], dtype=torch.float64).log_softmax(0)
OLD = torch.tensor([0.1, -0.5, 0.9, 0.6, -1.0], dtype=torch.float64).log_softmax(0)
GENERATOR = torch.tensor([0.0, -0.7, 0.4, 0.9, -0.8], dtype=torch.float64).log_softmax(0)


def expected(sampled_from: Tensor, old: Tensor | None, **settings: object) -> list[float]:
    """The gradient of the expected KL term of the loss, with factor 1."""
    logits = LOGITS.clone().requires_grad_()
    logprobs = logits.log_softmax(0)
    columns = {"generation_logprobs": sampled_from, "reference_logprobs": REFERENCE}
    if old is not None:
        columns["old_logprobs"] = old
    config = LossConfig(reference_policy_kl_penalty=1.0, **settings)  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(logprobs.sum() * 0, logits, retain_graph=True)
    for token in range(5):
        one = {name: column[token : token + 1] for name, column in columns.items()}
        batch = make_batch([1], one, {"advantage": [0.0]})
        loss = PolicyLoss(config, on_policy=old is None)(
            Outputs(logprobs[token : token + 1]), batch, Totals(1, 1)
        ).loss
        (part,) = torch.autograd.grad(loss, logits, retain_graph=True)
        gradient = gradient + sampled_from[token].exp() * part
    return gradient.tolist()


def gradient_of(value: Callable[[Tensor], Tensor]) -> list[float]:
    """By the logits, of a number that is worked out from all log-probabilities."""
    logits = LOGITS.clone().requires_grad_()
    return torch.autograd.grad(value(logits.log_softmax(0)), logits)[0].tolist()


NOW = LOGITS.log_softmax(0)
FORWARD = gradient_of(lambda p: (p.exp() * (p - REFERENCE)).sum())
"""Of KL(policy || reference)."""
BACKWARD = gradient_of(lambda p: (REFERENCE.exp() * (REFERENCE - p)).sum())
"""Of KL(reference || policy)."""
OF_K2 = gradient_of(lambda p: (p.exp() * (p - REFERENCE).square() / 2).sum())
"""Of the expectation of k2, which is no KL."""


def test_the_two_divergences_differ() -> None:
    assert max(abs(a - b) for a, b in zip(FORWARD, BACKWARD, strict=True)) > 0.05


@pytest.mark.parametrize(
    ("kind", "corrected", "gradient"),
    [
        ("k1", False, [0.0] * 5),
        ("k2", False, FORWARD),
        ("k3", False, BACKWARD),
        ("k1", True, FORWARD),
        ("k2", True, OF_K2),
        ("k3", True, FORWARD),
        ("k1", None, FORWARD),
        ("k2", None, FORWARD),
        ("k3", None, FORWARD),
    ],
)
def test_in_the_loss_of_the_policys_own_samples(
    kind: str, corrected: bool | None, gradient: list[float]
) -> None:
    settings = {"reference_policy_kl_type": kind, "use_bias_correction_kl": corrected}
    assert expected(NOW, None, **settings) == pytest.approx(gradient, abs=1e-12)


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_of_an_older_policys_samples(kind: str) -> None:
    """After the first update of a rollout, and with a generator that is not quite the policy."""
    of_old = expected(OLD, OLD, reference_policy_kl_type=kind)
    assert of_old == pytest.approx(FORWARD, abs=1e-12)
    settings = {"reference_policy_kl_type": kind, "use_on_policy_kl_approximation": True}
    assert expected(GENERATOR, OLD, **settings) == pytest.approx(FORWARD, abs=1e-12)
    assert expected(GENERATOR, OLD, reference_policy_kl_type=kind) != pytest.approx(FORWARD, abs=1e-3)


def test_the_approximation_alone_weighs_without_a_gradient_of_its_own() -> None:
    settings = {"reference_policy_kl_type": "k3", "use_on_policy_kl_approximation": True}
    found = expected(GENERATOR, OLD, use_bias_correction_kl=False, **settings)
    assert found == pytest.approx(BACKWARD, abs=1e-12)


@pytest.mark.parametrize(("kind", "right"), [("k1", True), ("k2", False), ("k3", False)])
def test_in_the_reward(kind: str, right: bool) -> None:
    """A charge on a token is the policy gradient's: E[charge d log pi]. Only k1's is the KL's: k3's is that less the
    other KL's, next to nothing where the policies are near, and moves a token that is rarer than in the reference even
    further away."""
    charge = kl.estimate(NOW, REFERENCE, LossConfig(reference_policy_kl_type=kind))  # type: ignore[arg-type]
    found = gradient_of(lambda p: (NOW.exp() * charge * p).sum())
    assert (found == pytest.approx(FORWARD, abs=1e-12)) is right
    if kind == "k3":
        assert found == pytest.approx([a - b for a, b in zip(FORWARD, BACKWARD, strict=True)], abs=1e-12)


def term(logprob: float, reference: float, generated: float, **settings: object) -> tuple[float, float]:
    """The KL term of one token, and its gradient by the token's log-probability."""
    logprobs = torch.tensor([logprob], dtype=torch.float64, requires_grad=True)
    columns = {"generation_logprobs": [generated], "reference_logprobs": [reference]}
    tensors = {name: torch.tensor(values, dtype=torch.float64) for name, values in columns.items()}
    config = LossConfig(reference_policy_kl_penalty=1.0, **settings)  # type: ignore[arg-type]
    batch = make_batch([1], tensors, {"advantage": [0.0]})
    output = PolicyLoss(config, on_policy=True)(Outputs(logprobs), batch, Totals(1, 1))
    output.loss.backward()
    assert logprobs.grad is not None
    return output.loss.item(), logprobs.grad.item()


def test_the_limits_hold_for_what_goes_into_the_loss() -> None:
    # d = 2: k1 = 2; learner over generator e^3 = 20.1: 40.2, which the output's limit of 10 cuts, with its gradient
    weighed = {"reference_policy_kl_type": "k1", "use_on_policy_kl_approximation": True}
    assert term(-1.0, -3.0, -4.0, **weighed) == (10.0, 0.0)
    # d = 30 is cut at 20, so the token has no gradient, also none by its weight of 1
    assert term(-1.0, -31.0, -1.0, reference_policy_kl_type="k1", kl_output_clamp_value=None) == (20.0, 0.0)
    # a ratio of e^800 is cut at e^20 rather than infinite
    value, gradient = term(-1.0, -1.5, -801.0, kl_output_clamp_value=None, **weighed)
    assert value == pytest.approx(0.5 * torch.tensor(20.0).double().exp().item())
    assert abs(gradient) < 1e300
