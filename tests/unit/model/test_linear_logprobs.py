"""Log-probabilities without the full logits: the numbers of the full logits, whatever the chunks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import CONFIGS, VOCABULARY, gradients, largest_gap, make_model
from torch import Tensor

from hone.model import linear_logprobs as module
from hone.model.linear_logprobs import linear_logprobs
from hone.model.scorer import ScoreRequest, TokenScorer

ROWS, HIDDEN, TOKENS = 23, 16, 50


def inputs(dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, weight, targets (some twice, for the scattered gradient), and a gradient to send back."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(ROWS, HIDDEN, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(TOKENS, HIDDEN, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(0, TOKENS, (ROWS,), generator=generator)
    targets[:4] = 7
    return hidden, weight, targets, torch.randn(ROWS, generator=generator)


def plain(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> Tensor:
    return ((hidden @ weight.t()) / temperature).log_softmax(-1)[torch.arange(len(targets)), targets]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [None, 1, 5, 23, 100])
def test_values_and_gradients_are_those_of_log_softmax(chunk: int | None, temperature: float) -> None:
    hidden, weight, targets, grad = inputs()
    values = linear_logprobs(hidden, weight, targets, temperature=temperature, chunk_rows=chunk)
    expected = plain(hidden.double(), weight.double(), targets, temperature)
    assert values.dtype == torch.float32
    assert torch.allclose(values.double(), expected, atol=1e-5)
    ours = torch.autograd.grad(values, (hidden, weight), grad)
    theirs = torch.autograd.grad(expected, (hidden, weight), grad.double())
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("keep", "tiles"), [(0, 0), (400, 2), (1 << 26, 7)])
def test_kept_and_computed_again_are_the_same(keep: int, tiles: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """None, two and all of seven tiles of 23 rows by 7 or 8 columns."""
    monkeypatch.setattr(module, "KEEP_ELEMENTS", keep)
    monkeypatch.setattr(module, "KEEP_SHARE", 0.0)
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 8 * ROWS)
    hidden, weight, targets, grad = inputs()
    values = linear_logprobs(hidden, weight, targets)
    assert len(values.grad_fn.kept) == tiles  # type: ignore[union-attr]
    ours = torch.autograd.grad(values, (hidden, weight), grad)
    theirs = torch.autograd.grad(plain(hidden, weight, targets, 1.0), (hidden, weight), grad)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-5, rtol=1e-5)


def test_the_gradient_is_right_in_fp64_differences() -> None:
    """Central differences of the plain definition at a few places, no autograd on either side of the comparison."""
    hidden, weight, targets, grad = inputs()
    (ours,) = torch.autograd.grad(linear_logprobs(hidden, weight, targets, chunk_rows=5), hidden, grad)
    for row, column in ((0, 0), (7, 3), (22, 15)):
        step = torch.zeros(ROWS, HIDDEN, dtype=torch.float64)
        step[row, column] = 1e-5
        with torch.no_grad():
            up, down = (plain(hidden.double() + s, weight.double(), targets, 1.0) for s in (step, -step))
        assert float((up - down) @ grad.double()) / 2e-5 == pytest.approx(
            float(ours[row, column]), rel=1e-3, abs=1e-5
        )


def test_no_rows_at_all() -> None:
    hidden = torch.zeros(0, HIDDEN, requires_grad=True)
    weight = torch.randn(TOKENS, HIDDEN, requires_grad=True)
    values = linear_logprobs(hidden, weight, torch.zeros(0, dtype=torch.long))
    assert values.shape == (0,)
    values.sum().backward()
    assert weight.grad is not None
    assert not weight.grad.any()


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, weight, targets, grad = inputs()
    values = linear_logprobs(hidden, weight.detach(), targets)
    values.backward(grad)
    (expected,) = torch.autograd.grad(plain(hidden, weight, targets, 1.0), hidden, grad)
    assert torch.allclose(hidden.grad, expected, atol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("chunk", [None, 4])
def test_under_autocast_forward_and_backward_compute_alike(dtype: torch.dtype, chunk: int | None) -> None:
    """Large logits: were backward's products in another precision than forward's, probabilities would be far off.

    The comparison is with the same rounded products in fp64.
    """
    hidden, weight, targets, grad = inputs()
    with torch.no_grad():
        hidden *= 4
    with torch.autocast("cpu", dtype=dtype):
        values = linear_logprobs(hidden, weight, targets, chunk_rows=chunk)
    assert values.dtype == torch.float32
    ours = torch.autograd.grad(values, (hidden, weight), grad)
    with torch.no_grad():
        logits = (hidden.to(dtype) @ weight.to(dtype).t()).double()
    expected = logits.log_softmax(-1)[torch.arange(ROWS), targets]
    assert torch.allclose(values.double(), expected, atol=1e-4, rtol=1e-5)
    one_hot = torch.nn.functional.one_hot(targets, TOKENS).double()
    grad_logits = grad.double()[:, None] * (one_hot - logits.softmax(-1))
    for a, b in zip(ours, (grad_logits @ weight.double(), grad_logits.t() @ hidden.double()), strict=True):
        assert a.dtype == torch.float32
        assert torch.allclose(a.double(), b, atol=float(b.abs().max()) * 0.01)


# ---- a model's log-probabilities at chosen positions ----


def sequences(lengths: tuple[int, ...] = (7, 12, 4), seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(2, VOCABULARY, (n,), generator=generator) for n in lengths]


def padded(scorer: TokenScorer, rows: list[Tensor]) -> list[Tensor]:
    """All tokens but the first as targets, rows right-padded."""
    width = max(map(len, rows)) + 1
    ids = torch.stack([torch.cat([row, torch.zeros(width - len(row), dtype=torch.long)]) for row in rows])
    at = torch.cat([torch.arange(len(row) - 1) + i * width for i, row in enumerate(rows)])
    targets = torch.cat([row[1:] for row in rows])
    return list(scorer(ScoreRequest(ids, at, targets)).logprobs_N.split([len(row) - 1 for row in rows]))


def packed(scorer: TokenScorer, rows: list[Tensor]) -> list[Tensor]:
    """The same, end to end in one row."""
    positions = torch.cat([torch.arange(len(row)) for row in rows])[None]
    starts = [sum(len(row) for row in rows[:i]) for i in range(len(rows))]
    at = torch.cat([torch.arange(len(row) - 1) + start for row, start in zip(rows, starts, strict=True)])
    targets = torch.cat([row[1:] for row in rows])
    read = scorer(ScoreRequest(torch.cat(rows)[None], at, targets, positions)).logprobs_N
    return list(read.split([len(row) - 1 for row in rows]))


def full(model: Any, row: Tensor, temperature: float = 1.0) -> Tensor:
    """One sequence, all logits, by the model itself."""
    logits = model(input_ids=row[None], use_cache=False).logits[0, :-1].double() / temperature
    return logits.log_softmax(-1).gather(1, row[1:, None]).squeeze(1)


@pytest.mark.parametrize("layout", [padded, packed])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("kind", list(CONFIGS))
def test_scores_are_those_of_the_models_own_logits(kind: str, temperature: float, layout: Any) -> None:
    """Windows of 5 (Mistral, Gemma 2) are passed by two of the three sequences."""
    model, rows = make_model(kind).eval(), sequences()
    scorer = TokenScorer(model, temperature=temperature)
    for values, row in zip(layout(scorer, rows), rows, strict=True):
        assert torch.allclose(values.double(), full(model, row, temperature), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("layout", [padded, packed])
@pytest.mark.parametrize("kind", list(CONFIGS))
def test_gradients_are_those_of_the_models_own_logits(kind: str, layout: Any) -> None:
    model, rows = make_model(kind), sequences()
    torch.cat(layout(TokenScorer(model, chunk_rows=4), rows)).sum().backward()
    ours = gradients(model)
    model.zero_grad()
    torch.cat([full(model, row) for row in rows]).sum().backward()
    assert largest_gap(ours, gradients(model)) < 1e-5


@pytest.mark.parametrize("changed", [0, 1, 2])
@pytest.mark.parametrize("layout", [padded, packed])
@pytest.mark.parametrize("kind", list(CONFIGS))
def test_samples_never_see_one_another(kind: str, layout: Any, changed: int) -> None:
    """Other tokens in one sample: the others' log-probabilities stay, its own do not."""
    scorer = TokenScorer(make_model(kind).eval())
    rows = sequences()
    before = layout(scorer, rows)
    rows[changed] = (rows[changed] - 2 + 9) % (VOCABULARY - 2) + 2
    after = layout(scorer, rows)
    for index in range(3):
        if index == changed:
            assert not torch.allclose(before[index], after[index], atol=1e-2)
        else:
            assert torch.allclose(before[index], after[index], atol=1e-6)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_no_token_sees_what_follows(kind: str) -> None:
    scorer = TokenScorer(make_model(kind).eval())
    rows = sequences()
    before = packed(scorer, rows)
    rows[1][8:] = (rows[1][8:] - 2 + 9) % (VOCABULARY - 2) + 2
    after = packed(scorer, rows)
    assert torch.allclose(before[1][:7], after[1][:7], atol=1e-6)  # targets 1 to 7
    assert not torch.allclose(before[1][7:], after[1][7:], atol=1e-2)


def test_heads_that_are_no_plain_map_are_seen() -> None:
    plain_heads = {kind: TokenScorer(make_model(kind)).plain_head for kind in CONFIGS}
    assert plain_heads == {"llama": True, "qwen3": True, "qwen2": True, "mistral": True, "gemma2": False}


def test_a_soft_cap_is_seen_at_the_small_logits_of_fresh_weights() -> None:
    """30 tanh(x / 30) differs from x by x^3 / 2700: 4e-10 at logits of 0.01, and grows as the model learns."""
    model = make_model("gemma2", final_logit_softcapping=30.0, initializer_range=0.002)
    with torch.no_grad():
        logits = model(input_ids=torch.arange(4)[None]).logits
        assert float(logits.abs().max()) < 0.1
    assert not TokenScorer(model).plain_head


def test_probing_leaves_no_trace() -> None:
    model = make_model().train()
    scorer = TokenScorer(model)
    assert scorer.supports_packing
    assert model.training
    assert gradients(model) == {}
    assert not model.get_output_embeddings()._forward_pre_hooks


def test_greedy_runs_score_the_untempered_distribution() -> None:
    model, rows = make_model().eval(), sequences()
    values = padded(TokenScorer(model, temperature=0.0), rows)
    assert torch.allclose(values[0].double(), full(model, rows[0]), atol=2e-5)
