"""Entropies at each target: in every layout, on every mesh, in a loss and without; and metrics that are a maximum."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ranks import layout, on_ranks, spread_tiny
from tiny import PAD, gradients, largest_gap, make_learner, make_model, make_samples, run, sft_config
from torch import Tensor

from hone.engine.local.learner import LocalLearner
from hone.model.mesh import Mesh
from hone.planning.parallel_dims import ParallelDims
from hone.types import Batch, LossOutput, Outputs, Totals

LAYOUTS: dict[str, dict[str, Any]] = {
    "one at a time": {"train_micro_batch_size": 1, "logprob_batch_size": 1},
    "four at a time": {"train_micro_batch_size": 4, "logprob_batch_size": 4},
    "packed": {"sequence_packing": {"enabled": True, "train_mb_tokens": 45, "logprob_mb_tokens": 45}},
}


class Bonus:
    """Minus the mean entropy, and a little of the log-probabilities. Picklable."""

    needs_entropy = True

    def __call__(self, outputs: Outputs, batch: Batch, totals: Totals) -> LossOutput:
        assert outputs.entropy_N is not None
        loss = (-outputs.entropy_N - 0.1 * outputs.logprobs_N).sum() / totals.tokens
        most = outputs.entropy_N.detach().max() if batch.tokens_N.numel() else outputs.entropy_N.new_zeros(())
        return LossOutput(loss, {"entropy": outputs.entropy_N.detach().sum()}, {"most": most})


def of_full_logits(kind: str) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Entropies of each sample's targets, and the loss's gradients, by autograd through all logits."""
    model, samples = make_model(kind), make_samples(7)
    total = sum(sample.num_targets for sample in samples)
    entropies, loss = [], torch.zeros(())
    for sample in samples:
        at = sample.loss_mask_T.nonzero().squeeze(1)
        logprobs = model(sample.tokens_T[None]).logits[0].float().log_softmax(-1)[at - 1]
        entropies.append(-(logprobs.exp() * logprobs).sum(-1))
        own = logprobs.gather(1, sample.tokens_T[at][:, None])
        loss = loss - (entropies[-1].sum() + 0.1 * own.sum()) / total
    loss.backward()
    return [entropy.detach() for entropy in entropies], gradients(model)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])  # gemma2: a head that is not a plain matrix
@pytest.mark.parametrize("way", list(LAYOUTS))
def test_against_the_models_logits(way: str, kind: str) -> None:
    expected, expected_gradients = of_full_logits(kind)
    learner = make_learner(make_model(kind), sft_config(**LAYOUTS[way]).policy)
    for ours, theirs in zip(run(learner.entropies(make_samples(7))), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    metrics = run(learner.forward_backward(make_samples(7), Bonus()))
    every = torch.cat(expected)
    assert metrics["entropy"] == pytest.approx(float(every.sum()), rel=1e-5)
    assert metrics["most"] == pytest.approx(
        float(every.max()), rel=1e-5
    )  # the largest, not a sum of micro-batches
    assert largest_gap(gradients(learner.model), expected_gradients) < 1e-4


def on_mesh(mesh: Mesh | None) -> tuple[list[Tensor], dict[str, float], dict[str, Tensor]]:
    model = make_model("llama") if mesh is None else spread_tiny(mesh, lambda: make_model("llama"))
    settings = {"name": "torch.optim.SGD", "kwargs": {"lr": 1.0}}
    config = sft_config(**LAYOUTS["four at a time"], optimizer=settings, max_grad_norm=None).policy
    learner = LocalLearner(model, config, pad_token=PAD)
    entropies = run(learner.entropies(make_samples(7)))
    metrics = run(learner.forward_backward(make_samples(7), Bonus()))
    run(learner.optim_step())
    return entropies, metrics, {name: tensor.clone() for name, tensor in learner.weights()}


MESHES = {
    "dp2": layout(shard=2),
    "tp2": layout(tensor=2),
    "cp2": layout(context=2),
    "dp8, one without work": layout(shard=8),
}


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES.keys())
def test_on_ranks(mesh: ParallelDims) -> None:
    entropies, metrics, weights = on_mesh(None)
    for theirs in on_ranks(mesh, on_mesh):
        for ours, one in zip(entropies, theirs[0], strict=True):
            torch.testing.assert_close(ours, one, rtol=0, atol=1e-5)
        assert theirs[1] == pytest.approx(metrics, rel=1e-5)
        for name, weight in weights.items():
            torch.testing.assert_close(theirs[2][name], weight, rtol=0, atol=1e-5)
