"""The likeliest tokens at each target, and the log-probabilities of given ones: in every layout, on every mesh."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from ranks import layout, on_ranks, spread_tiny
from tiny import PAD, gradients, make_learner, make_model, make_samples, run, sft_config
from torch import Tensor

from hone.engine.local.learner import LocalLearner
from hone.model.mesh import Mesh
from hone.planning.parallel_dims import ParallelDims
from hone.types import Batch, LossOutput, Outputs, Sample, Totals

K = 5
LAYOUTS: dict[str, dict[str, Any]] = {
    "one at a time": {"train_micro_batch_size": 1, "logprob_batch_size": 1},
    "four at a time": {"train_micro_batch_size": 4, "logprob_batch_size": 4},
    "packed": {"sequence_packing": {"enabled": True, "train_mb_tokens": 45, "logprob_mb_tokens": 45}},
}


def expected(samples: list[Sample], k: int = K, kind: str = "llama") -> list[tuple[Tensor, Tensor]]:
    """By the model's own logits, a sample at a time."""
    model = make_model(kind).eval()
    found = []
    for sample in samples:
        with torch.no_grad():
            logprobs = model(sample.tokens_T[None]).logits[0].float().log_softmax(-1)
        at = sample.loss_mask_T.nonzero().squeeze(1) - 1
        best = logprobs[at].topk(k)
        found.append((best.values, best.indices))
    return found


def agree(ours: list[tuple[Tensor, Tensor]], theirs: list[tuple[Tensor, Tensor]]) -> None:
    for (values, tokens), (logprobs, indices) in zip(ours, theirs, strict=True):
        torch.testing.assert_close(values, logprobs, rtol=0, atol=1e-5)
        assert torch.equal(tokens, indices)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])  # gemma2: a head that is not a plain matrix
@pytest.mark.parametrize("way", list(LAYOUTS))
def test_the_likeliest_are_those_of_the_models_logits(way: str, kind: str) -> None:
    samples = make_samples(7)
    learner = make_learner(make_model(kind), sft_config(**LAYOUTS[way]).policy)
    agree(run(learner.topk_logprobs(samples, K)), expected(samples, kind=kind))


def cross_entropy(outputs: Outputs, batch: Batch, totals: Totals) -> LossOutput:
    """Of the given distribution over the candidates, and the token's own log-probability."""
    assert outputs.candidate_logprobs_NK is not None
    weight_NK = batch.token_columns["weights"]
    loss = -(weight_NK * outputs.candidate_logprobs_NK).sum() / totals.tokens
    return LossOutput(loss, {"own": outputs.logprobs_N.sum().detach()})


def with_candidates(samples: list[Sample]) -> list[Sample]:
    """Every other target's own token is among its candidates."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for sample in samples:
        own = sample.tokens_T[sample.loss_mask_T]
        candidates = torch.stack([torch.randperm(40, generator=generator)[:K] for _ in own])
        for row in range(0, len(own), 2):
            if own[row] not in candidates[row]:
                candidates[row, 2] = own[row]
        weights = torch.rand(len(own), K, generator=generator)
        made.append(replace(sample, token_columns={"candidates": candidates, "weights": weights}))
    return made


def of_full_logits(samples: list[Sample]) -> tuple[float, float, dict[str, Tensor]]:
    """Loss, sum of the tokens' own log-probabilities, and gradients, by autograd through all logits."""
    model = make_model()
    total = sum(sample.num_targets for sample in samples)
    loss, own = torch.zeros(()), 0.0
    for sample in samples:
        at = sample.loss_mask_T.nonzero().squeeze(1)
        logprobs = model(sample.tokens_T[None]).logits[0].float().log_softmax(-1)[at - 1]
        picked = logprobs.gather(1, sample.token_columns["candidates"])
        loss = loss - (sample.token_columns["weights"] * picked).sum() / total
        own += float(logprobs.gather(1, sample.tokens_T[at][:, None]).sum())
    loss.backward()
    return float(loss), own, gradients(model)


@pytest.mark.parametrize("way", list(LAYOUTS))
def test_candidates_and_their_gradient_are_those_of_the_models_logits(way: str) -> None:
    samples = with_candidates(make_samples(7))
    learner = make_learner(make_model(), sft_config(**LAYOUTS[way]).policy)
    metrics = run(learner.forward_backward(samples, cross_entropy))
    loss, own, grads = of_full_logits(samples)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["own"] == pytest.approx(own, rel=1e-5)
    for name, grad in gradients(learner.model).items():
        torch.testing.assert_close(grad, grads[name], rtol=1e-4, atol=1e-6)


def on_a_rank(mesh: Mesh) -> tuple[list[tuple[Tensor, Tensor]], dict[str, float]]:
    learner = LocalLearner(spread_tiny(mesh, make_model), sft_config().policy, pad_token=PAD)
    samples = make_samples(7)
    metrics = run(learner.forward_backward(with_candidates(samples), cross_entropy))
    return run(learner.topk_logprobs(samples, K)), metrics | run(learner.optim_step())


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [layout(shard=2), layout(tensor=2), layout(context=2)], ids=str)
def test_ranks_agree_with_one_process(mesh: ParallelDims) -> None:
    samples = make_samples(7)
    learner = make_learner(make_model(), sft_config().policy)
    metrics = run(learner.forward_backward(with_candidates(samples), cross_entropy))
    metrics |= run(learner.optim_step())
    for found, reported in on_ranks(mesh, on_a_rank):
        agree(found, expected(samples))
        assert reported == pytest.approx(metrics, rel=1e-4)
