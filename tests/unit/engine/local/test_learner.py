"""The learner: how samples are batched changes nothing; what cannot go on stops before a weight changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import CONFIGS, gradients, largest_gap, make_learner, make_model, make_samples, run, sft_config
from transformers import AutoModelForCausalLM, BertConfig, MambaConfig

from hone.algorithms import sft
from hone.config.schema import ModelConfig
from hone.engine.local.learner import LocalLearner
from hone.errors import ConfigError, ModelError, TrainingError
from hone.types import Batch, LossOutput, Outputs, Sample, Totals

ADAMW = {"name": "torch.optim.AdamW", "kwargs": {"lr": 1e-3, "weight_decay": 0.01, "eps": 1e-6}}
"""With an eps that gradients of rounding alone (an embedding that one token looked up) do not pass."""


def policy_of(**changes: Any) -> ModelConfig:
    return sft_config(**{"optimizer": ADAMW, "train_micro_batch_size": 16, **changes}).policy


def trained(
    policy: ModelConfig,
    updates: int = 20,
    kind: str = "llama",
    change: Callable[[LocalLearner], None] | None = None,
) -> tuple[LocalLearner, list[float]]:
    """A learner after `updates` ragged batches of 7 samples, and its losses."""
    learner = make_learner(make_model(kind), policy)
    if policy.activation_checkpointing:
        learner.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    losses = []
    for update in range(updates):
        metrics = run(sft.step(learner, make_samples(7, seed=update)))
        losses.append(metrics["loss"])
    return learner, losses


def weights_of(learner: LocalLearner) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in learner.weights()}


WAYS = {
    "one at a time": {"train_micro_batch_size": 1},
    "three at a time": {"train_micro_batch_size": 3},
    "by tokens": {"dynamic_batching": {"enabled": True, "train_mb_tokens": 40, "sequence_length_round": 8}},
    "packed": {"sequence_packing": {"enabled": True, "train_mb_tokens": 45}},
    "packed into one row": {"sequence_packing": {"enabled": True, "train_mb_tokens": 1000}},
    "activations computed again": {"activation_checkpointing": True},
    "chunks of the head": {"logprob_chunk_size": 5},
}


@pytest.fixture(scope="module")
def plain() -> dict[str, tuple[dict[str, torch.Tensor], list[float]]]:
    """Final weights and losses when the whole batch is one padded micro-batch."""
    results = {}
    for kind in ("llama", "mistral"):
        learner, losses = trained(policy_of(), kind=kind)
        results[kind] = weights_of(learner), losses
    return results


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        *(("llama", way) for way in WAYS),
        ("mistral", "packed"),
        *(pytest.param("mistral", way, marks=pytest.mark.slow) for way in WAYS if way != "packed"),
    ],
)
def test_batching_changes_nothing_but_rounding(way: str, kind: str, plain: dict[str, Any]) -> None:
    learner, losses = trained(policy_of(**WAYS[way]), kind=kind)
    weights, expected = plain[kind]
    assert losses == pytest.approx(expected, rel=1e-5)
    assert losses[-1] < losses[0]
    gap = max(float((tensor - weights[name]).abs().max()) for name, tensor in learner.weights())
    assert gap < 1e-5


def test_per_batch_denominators_would_be_seen(plain: dict[str, Any]) -> None:
    """The comparison above has teeth: a loss that divides by its own micro-batch ends elsewhere."""

    def local(outputs: Outputs, batch: Batch, totals: Totals) -> LossOutput:
        return LossOutput(-outputs.logprobs_N.mean() / 7)

    learner = make_learner(make_model(), policy_of(train_micro_batch_size=1))
    for update in range(20):
        run(learner.forward_backward(make_samples(7, seed=update), local))
        run(learner.optim_step())
    gap = max(float((tensor - plain["llama"][0][name]).abs().max()) for name, tensor in learner.weights())
    assert gap > 1e-3


@pytest.mark.parametrize("kind", list(CONFIGS))
@pytest.mark.parametrize("way", ["one at a time", "packed", "by tokens"])
def test_forward_is_the_same_however_batched(kind: str, way: str) -> None:
    samples = make_samples(9, seed=3)
    changes = dict(WAYS[way])
    for section in ("sequence_packing", "dynamic_batching"):
        if section in changes:
            changes[section] = {**changes[section], "logprob_mb_tokens": changes[section]["train_mb_tokens"]}  # type: ignore[dict-item]
    changes["logprob_batch_size"] = changes.pop("train_micro_batch_size", 16)
    whole = run(make_learner(make_model(kind), policy_of()).forward(samples))
    parts = run(make_learner(make_model(kind), policy_of(**changes)).forward(samples))
    for sample, a, b in zip(samples, whole, parts, strict=True):
        assert a.shape == (sample.num_targets,)
        assert torch.allclose(a, b, atol=2e-6, rtol=1e-5)


def test_forward_keeps_no_graph_and_no_mode() -> None:
    learner = make_learner()
    (values, *_) = run(learner.forward(make_samples(2)))
    assert not values.requires_grad
    assert values.dtype == torch.float32
    assert learner.model.training


@pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 0.02), ("float16", 0.01)])
@pytest.mark.parametrize("way", ["one micro-batch", "chunks of the head", "packed"])
def test_lower_precision_stays_close(
    precision: str, tolerance: float, way: str, plain: dict[str, Any]
) -> None:
    learner, losses = trained(policy_of(precision=precision, **WAYS.get(way, {})))
    assert all(bool(torch.isfinite(tensor).all()) for _, tensor in learner.weights())
    assert all(tensor.dtype == torch.float32 for _, tensor in learner.weights())
    assert losses == pytest.approx(plain["llama"][1], rel=tolerance)


def test_a_sample_without_targets_is_no_trouble() -> None:
    """Alone in its micro-batch it adds nothing, and the others' gradient is what it was."""
    samples = make_samples(3)
    empty = Sample("empty", torch.tensor([4, 5, 6]), torch.zeros(3, dtype=torch.bool))
    one = make_learner(make_model(), policy_of(train_micro_batch_size=1))
    run(one.forward_backward([*samples, empty], sft.sft_loss))
    other = make_learner(make_model(), policy_of(train_micro_batch_size=1))
    run(other.forward_backward(samples, sft.sft_loss))
    assert largest_gap(gradients(one.model), gradients(other.model)) == 0.0
    assert [values.numel() for values in run(one.forward([empty, samples[0]]))] == [0, samples[0].num_targets]


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_loss_that_is_not_finite_changes_nothing(precision: str) -> None:
    learner = make_learner(make_model(), policy_of(train_micro_batch_size=2, precision=precision))
    run(sft.step(learner, make_samples(4)))
    before = weights_of(learner)
    calls = []

    def broken(outputs: Outputs, batch: Batch, totals: Totals) -> LossOutput:
        calls.append(batch.ids)
        return LossOutput(outputs.logprobs_N.sum() * (float("nan") if len(calls) == 2 else 1.0))

    with pytest.raises(TrainingError, match=r"loss is nan at update 2, in samples row\d"):
        run(learner.forward_backward(make_samples(6, seed=1), broken))
    assert len(calls) == 3  # on a mesh the others are waiting in theirs, so all are computed
    assert gradients(learner.model) == {}  # not even those of the first micro-batch are left for a later step
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.weights())


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    learner = make_learner(make_model(), policy_of())
    before = weights_of(learner)
    run(learner.forward_backward(make_samples(4), sft.sft_loss))
    next(p for p in learner.model.parameters() if p.grad is not None).grad[0] = float("inf")  # type: ignore[index]
    with pytest.raises(TrainingError, match="gradient norm is inf at update 1"):
        run(learner.optim_step())
    assert gradients(learner.model) == {}
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.weights())


def test_fp16_skips_a_step_that_overflowed_and_lowers_the_scale() -> None:
    learner = make_learner(make_model(), policy_of(precision="float16"))
    before = weights_of(learner)
    run(learner.forward_backward(make_samples(4), sft.sft_loss))
    next(p for p in learner.model.parameters() if p.grad is not None).grad[0] = float("inf")  # type: ignore[index]
    metrics = run(learner.optim_step())
    assert metrics["loss_scale"] == 32768.0  # half of the first scale, 2^16
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.weights())


def test_fp16_without_a_scale_to_blame_stops() -> None:
    """Gradients that are infinite at any scale: skipping them for ever would look like training."""
    learner = make_learner(make_model(), policy_of(precision="float16"))

    def updates() -> None:
        for _ in range(30):
            one()

    def one() -> None:
        run(learner.forward_backward(make_samples(2), sft.sft_loss))
        next(p for p in learner.model.parameters() if p.grad is not None).grad[0] = float("inf")  # type: ignore[index]
        run(learner.optim_step())

    with pytest.raises(TrainingError, match="gradient norm"):
        updates()
    assert learner.scaler.get_scale() <= 1


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("limit", [0.01, None])
def test_gradients_are_clipped_to_the_norm(limit: float | None, precision: str) -> None:
    """With plain SGD at rate 1 the change of all weights together has the norm of the clipped gradient.

    In fp16 it is the gradient without its scale that is clipped.
    """
    sgd = {"name": "torch.optim.SGD", "kwargs": {"lr": 1.0}}
    learner = make_learner(make_model(), policy_of(optimizer=sgd, max_grad_norm=limit, precision=precision))
    before = weights_of(learner)
    metrics = run(sft.step(learner, make_samples(4)))
    change = sum(float((t - before[n]).square().sum()) for n, t in learner.weights()) ** 0.5
    assert 0.1 < metrics["grad_norm"] < 100
    assert change == pytest.approx(limit if limit is not None else metrics["grad_norm"], rel=1e-3)


def test_a_frozen_learner_scores_and_holds_no_optimizer() -> None:
    learner = make_learner(make_model(), policy_of(), frozen=True)
    assert not learner.model.training
    assert not any(p.requires_grad for p in learner.model.parameters())
    samples = make_samples(3)
    other = run(make_learner(make_model(), policy_of()).forward(samples))
    assert all(torch.equal(a, b) for a, b in zip(run(learner.forward(samples)), other, strict=True))


def test_packing_is_refused_where_samples_would_see_each_other() -> None:
    config = MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with pytest.raises(ConfigError, match=r"policy\.sequence_packing\.enabled.*mamba"):
        make_learner(model, policy_of(sequence_packing={"enabled": True}))
    make_learner(model, policy_of())


def test_a_model_that_sees_what_follows_is_refused() -> None:
    config = BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
    )
    with pytest.raises(ModelError, match="bert models attend to later tokens"):
        make_learner(AutoModelForCausalLM.from_config(config))
