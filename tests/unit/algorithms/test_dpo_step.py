"""The DPO step on a model: batch-wide statistics, and nothing that tells how the batch was divided."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from ranks import layout, on_ranks, spread_tiny
from tiny import PAD, VOCABULARY, make_model, run, sft_config

from hone.algorithms import dpo
from hone.algorithms.dpo import Moments
from hone.config.schema.dpo import DPOSection
from hone.engine.local.learner import LocalLearner
from hone.model.mesh import Mesh
from hone.types import Sample

ADAMW = {"name": "torch.optim.AdamW", "kwargs": {"lr": 1e-3, "weight_decay": 0.01, "eps": 1e-4}}
MIXED = {"sigmoid": 1.0, "bco_pair": 0.5, "kto": 0.5, "aot": 0.4, "aot_unpaired": 0.3, "simpo": 0.2}
WAYS: dict[str, dict[str, Any]] = {
    "a pair at a time": {"train_micro_batch_size": 1},
    "three pairs at a time": {"train_micro_batch_size": 3},
    "by tokens": {
        "dynamic_batching": {
            "enabled": True,
            "train_mb_tokens": 96,
            "logprob_mb_tokens": 96,
            "sequence_length_round": 8,
        }
    },
    "packed": {"sequence_packing": {"enabled": True, "train_mb_tokens": 90, "logprob_mb_tokens": 90}},
}


def make_pairs(count: int, seed: int, *, share: bool = True) -> tuple[list[Sample], list[Sample]]:
    """Pairs with made-up reference log-probabilities, and KTO's mismatched answers."""
    generator = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(2, VOCABULARY, (10 + n % 3,), generator=generator) for n in range(count)]
    samples, mismatched = [], []
    for number, prompt in enumerate(prompts):
        for side, label in (("chosen", 1.0), ("rejected", -1.0)):
            samples.append(_sample(f"{number}:{side}", prompt, generator, label, str(number), share))
        other = _sample(f"{number}:mismatched", prompt, generator, 0.0, "", False)
        other.sequence_columns = {"reference_logprob_sum": other.sequence_columns["reference_logprob_sum"]}
        mismatched.append(other)
    return samples, mismatched


def _sample(
    name: str, prompt: torch.Tensor, generator: torch.Generator, label: float, unit: str, share: bool
) -> Sample:
    length = int(torch.randint(1, 9, (1,), generator=generator))
    tokens = torch.cat([prompt, torch.randint(2, VOCABULARY, (length,), generator=generator)])
    reference = -4.2 * length + float(torch.randn((), generator=generator))
    return Sample(
        name,
        tokens,
        torch.arange(len(tokens)) >= len(prompt),
        sequence_columns={"label": label, "reference_logprob_sum": reference},
        group=unit,
        prefix=len(prompt) if share else 0,
        unit=unit,
    )


def trained(
    mesh: Mesh | None,
    policy: dict[str, Any],
    *,
    losses: Any = "sigmoid",
    share: bool = True,
    count: int = 7,
    updates: int = 5,
) -> tuple[list[dict[str, float]], dict[str, torch.Tensor], Moments]:
    config = sft_config(**{"optimizer": ADAMW, **policy}).policy
    section = DPOSection(preference_loss=losses, sft_loss_weight=0.1, sft_average_log_probs=False)
    model = make_model() if mesh is None else spread_tiny(mesh, make_model)
    learner = LocalLearner(model, config, pad_token=PAD)
    moments, history = Moments(), []
    for update in range(updates):
        samples, mismatched = make_pairs(count, update, share=share)
        loss = run(
            dpo.loss_of(learner, samples, section, paired=True, moments=moments, mismatched=mismatched)
        )
        history.append(run(dpo.step(learner, samples, loss, moments)))
    return history, {name: tensor.clone() for name, tensor in learner.weights()}, moments


def alike(ours: Any, theirs: Any) -> None:
    for a, b in zip(ours[0], theirs[0], strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5)
    assert max(float((tensor - theirs[1][name]).abs().max()) for name, tensor in ours[1].items()) < 1e-5
    assert ours[2].mean == pytest.approx(theirs[2].mean, abs=1e-5)


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    whole = {"train_micro_batch_size": 16}
    return {
        "sigmoid": trained(None, whole, share=False),
        "mixed": trained(None, whole, losses=MIXED, share=False),
    }


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_layouts(way: dict[str, Any], plain: dict[str, Any]) -> None:
    alike(trained(None, way, losses=MIXED), plain["mixed"])


@pytest.mark.parametrize(
    "mesh",
    [
        pytest.param(layout(shard=2), id="dp2"),
        pytest.param(layout(tensor=2), id="tp2", marks=pytest.mark.slow),
    ],
)
def test_ranks(mesh: Any, plain: dict[str, Any]) -> None:
    work = partial(trained, policy={"train_micro_batch_size": 2}, losses=MIXED)
    for result in on_ranks(mesh, work):
        alike(result, plain["mixed"])


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_in_every_layout(ranks: int, way: dict[str, Any], plain: dict[str, Any]) -> None:
    for losses, name in (("sigmoid", "sigmoid"), (MIXED, "mixed")):
        for result in on_ranks(layout(shard=ranks), partial(trained, policy=way, losses=losses)):
            alike(result, plain[name])


def test_more_ranks_than_pairs() -> None:
    work = partial(trained, policy={}, losses={**MIXED, "orpo": 1.0}, count=1, updates=2)
    one = work(None)
    for result in on_ranks(layout(shard=2), work):
        alike(result, one)


def test_training_raises_the_chosen_above_the_rejected() -> None:
    learner = LocalLearner(
        make_model(), sft_config(optimizer=ADAMW, train_micro_batch_size=8).policy, pad_token=PAD
    )
    section = DPOSection(reference_policy_kl_penalty=0.5, sft_average_log_probs=False)
    samples, _ = make_pairs(8, 0)
    for sample, logprobs in zip(samples, run(learner.forward(samples)), strict=True):
        sample.sequence_columns["reference_logprob_sum"] = float(logprobs.double().sum())
    history = []
    for _ in range(10):
        loss = run(dpo.loss_of(learner, samples, section, paired=True, moments=Moments()))
        history.append(run(dpo.step(learner, samples, loss, Moments())))
    assert history[0]["loss"] == pytest.approx(0.6931, abs=1e-4)  # log 2: the policy is the reference
    assert history[0]["rewards_chosen"] == pytest.approx(0.0, abs=1e-5)
    assert history[-1]["loss"] < 0.4
    assert history[-1]["reward_accuracy"] == 1.0


def test_the_running_mean_of_bco_is_that_of_the_steps_before() -> None:
    history, _, moments = trained(None, {"train_micro_batch_size": 3}, losses="bco_pair")
    means = [(step["rewards_chosen"] + step["rewards_rejected"]) / 2 for step in history]
    assert [step["bco_delta"] for step in history] == pytest.approx(
        [0.0, *(sum(means[: n + 1]) / (n + 1) for n in range(4))], abs=1e-6
    )
    assert moments.mean == pytest.approx(sum(means) / 5)
    assert moments.count == 5 * 14


def test_rated_answers_alone() -> None:
    """Three desirable answers and one that is not: the mean is over answers, with the weights of both kinds."""
    samples, mismatched = make_pairs(4, 1)
    rated = [samples[0], samples[3], samples[4], samples[6]]
    for number, sample in enumerate(rated):
        sample.unit = f"{number}"
    section = DPOSection(
        preference_loss="kto", desirable_weight=0.5, undesirable_weight=2.0, sft_average_log_probs=False
    )
    learner = LocalLearner(make_model(), sft_config(train_micro_batch_size=1).policy, pad_token=PAD)
    loss = run(dpo.loss_of(learner, rated, section, paired=False, moments=Moments(), mismatched=mismatched))
    metrics = run(learner.forward_backward(rated, loss))
    sums = torch.stack([values.sum() for values in run(learner.forward(rated))])
    ratios = sums - torch.tensor([sample.sequence_columns["reference_logprob_sum"] for sample in rated])
    signs, weights = torch.tensor([1.0, -1.0, 1.0, 1.0]), torch.tensor([0.5, 2.0, 0.5, 0.5])
    expected = weights * torch.sigmoid(-signs * 0.05 * (ratios - loss.params.kl))
    assert metrics["loss"] == pytest.approx(float(expected.mean()), rel=1e-5)
    assert metrics["rewards_chosen"] == pytest.approx(float(0.05 * ratios[signs > 0].mean()), rel=1e-4)
    assert metrics["rewards_rejected"] == pytest.approx(float(0.05 * ratios[1]), rel=1e-4)
    assert "reward_accuracy" not in metrics
