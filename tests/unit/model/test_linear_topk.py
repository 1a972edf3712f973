"""Several targets of a row, and the likeliest ones: the numbers of the full logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hone.model import linear_logprobs as module
from hone.model import linear_topk as topk_module
from hone.model.linear_logprobs import linear_logprobs
from hone.model.linear_topk import linear_topk

ROWS, HIDDEN, TOKENS, K = 23, 16, 50, 6


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, weight, targets (the first of every other row is one of its others, too), a gradient."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, HIDDEN, generator=generator).requires_grad_()
    weight = torch.randn(TOKENS, HIDDEN, generator=generator).requires_grad_()
    targets = torch.stack([torch.randperm(TOKENS, generator=generator)[: K + 1] for _ in range(ROWS)])
    targets[::2, 0] = targets[::2, 3]
    return hidden, weight, targets, torch.randn(ROWS, K + 1, generator=generator)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("elements", [1 << 20, 8 * ROWS])
@pytest.mark.parametrize("chunk", [None, 5])
def test_several_targets_of_a_row(
    chunk: int | None, elements: int, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", elements)
    hidden, weight, targets, grad = inputs()
    values = linear_logprobs(hidden, weight, targets, temperature=temperature, chunk_rows=chunk)
    full = (hidden.double() @ weight.double().t() / temperature).log_softmax(-1)
    expected = full.gather(1, targets)
    torch.testing.assert_close(values.double(), expected, rtol=0, atol=1e-5)
    ours = torch.autograd.grad(values, (hidden, weight), grad)
    theirs = torch.autograd.grad(expected, (hidden, weight), grad.double())
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-5)


def test_one_target_of_a_row_in_either_shape() -> None:
    hidden, weight, targets, _ = inputs()
    flat = linear_logprobs(hidden, weight, targets[:, 1])
    assert torch.equal(linear_logprobs(hidden, weight, targets[:, 1:2])[:, 0], flat)
    assert linear_logprobs(hidden[:0], weight, targets[:0]).shape == (0, K + 1)


@pytest.mark.parametrize("elements", [1 << 20, 5 * TOKENS])
def test_the_likeliest(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk_module, "CHUNK_ELEMENTS", elements)
    hidden, weight, _, _ = inputs()
    logprobs, tokens = linear_topk(hidden, weight, K, temperature=0.7)
    expected = (hidden.double() @ weight.double().t() / 0.7).log_softmax(-1).topk(K)
    assert torch.equal(tokens, expected.indices)
    torch.testing.assert_close(logprobs.double(), expected.values, rtol=0, atol=1e-5)
    again = linear_logprobs(hidden, weight, tokens, temperature=0.7)
    torch.testing.assert_close(again, logprobs, rtol=0, atol=1e-5)


def test_the_likeliest_of_nothing() -> None:
    logprobs, tokens = linear_topk(torch.zeros(0, HIDDEN), torch.zeros(TOKENS, HIDDEN), K)
    assert logprobs.shape == tokens.shape == (0, K)
