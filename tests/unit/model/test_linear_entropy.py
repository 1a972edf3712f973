"""The entropy of a linear head against the full logits: value and gradient; on ranks see test_vocabulary_shards."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hone.model import linear_logprobs as module
from hone.model.linear_logprobs import linear_logprobs

ROWS, WIDTH, TOKENS = 19, 16, 50


def inputs(scale: float) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = (scale * torch.randn(ROWS, WIDTH, generator=generator)).requires_grad_()
    weight = torch.randn(TOKENS, WIDTH, generator=generator).requires_grad_()
    return hidden, weight, torch.randint(0, TOKENS, (ROWS,), generator=generator)


def both(found: Tensor, hidden: Tensor, weight: Tensor) -> list[Tensor]:
    """Values, and gradients of a mixed sum: of log-probabilities and entropies with different factors in each row."""
    factors = torch.linspace(-2, 3, found.numel()).view_as(found).to(found.dtype)
    return [found.detach(), *torch.autograd.grad((factors * found).sum(), [hidden, weight])]


def of_full_logits(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> list[Tensor]:
    exact, matrix = (t.detach().double().requires_grad_() for t in (hidden, weight))
    logprobs = (exact @ matrix.t() / temperature).log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    picked = logprobs.gather(1, targets.reshape(ROWS, -1))
    return both(torch.cat([picked, entropy[:, None]], 1), exact, matrix)


@pytest.mark.parametrize("scale", [0.3, 20.0])  # 20: distributions that are nearly sure of one token
@pytest.mark.parametrize("chunk", [None, 1, 7])
@pytest.mark.parametrize("keep", [0, 1 << 20])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_value_and_gradient(
    scale: float, chunk: int | None, keep: int, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 4 * ROWS)
    monkeypatch.setattr(module, "KEEP_ELEMENTS", keep)
    monkeypatch.setattr(module, "KEEP_SHARE", 0.0)
    hidden, weight, targets = inputs(scale)
    found = linear_logprobs(hidden, weight, targets, temperature=temperature, chunk_rows=chunk, entropy=True)
    exact = of_full_logits(hidden, weight, targets, temperature)
    for ours, theirs in zip(both(found, hidden, weight), exact, strict=True):
        assert (ours - theirs).abs().max() < 1e-5 * max(1.0, float(theirs.abs().max()))


def test_beside_several_targets() -> None:
    hidden, weight, _ = inputs(0.3)
    targets = torch.stack([torch.randperm(TOKENS)[:3] for _ in range(ROWS)])
    found = linear_logprobs(hidden, weight, targets, entropy=True)
    assert found.shape == (ROWS, 4)
    for ours, theirs in zip(
        both(found, hidden, weight), of_full_logits(hidden, weight, targets, 1.0), strict=True
    ):
        assert (ours - theirs).abs().max() < 1e-5 * max(1.0, float(theirs.abs().max()))


def test_a_uniform_distribution_and_a_sure_one() -> None:
    hidden = torch.tensor([[0.0], [500.0]])
    weight = torch.tensor([[1.0], [0.0], [0.0], [-1.0]])
    found = linear_logprobs(hidden, weight, torch.tensor([0, 0]), entropy=True)
    assert found[:, 1].tolist() == pytest.approx([math.log(4), 0.0], abs=1e-6)


def test_log_probabilities_are_the_same_bits_with_and_without() -> None:
    hidden, weight, targets = inputs(0.3)
    with_entropy = linear_logprobs(hidden, weight, targets, entropy=True)[:, 0]
    assert torch.equal(with_entropy, linear_logprobs(hidden, weight, targets))
