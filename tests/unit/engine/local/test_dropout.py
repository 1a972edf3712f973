"""Dropout: off where log-probabilities are compared, and where it is on the same for a sample in every forward."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from families import BY_TOKENS, groups, weighted
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from hone.algorithms.dpo import Moments, loss_of
from hone.algorithms.losses.preference_objective import PreferenceObjective
from hone.config.schema.dpo import DPOConfig
from hone.config.schema.grpo import GRPOConfig
from hone.config.schema.lora import LoraConfig
from hone.config.schema.sft import SFTConfig
from hone.engine.build import build
from hone.engine.local.learner import LocalLearner
from hone.model import dropout
from hone.model.adapters import with_lora
from hone.model.counter_rng import counted, key_of
from hone.model.loading import _set_up
from hone.types import Batch, LossOutput, Outputs, Sample, Totals

GPT2 = {
    "vocab_size": tiny.VOCABULARY,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "eos_token_id": 1,
    "bos_token_id": 1,
}


def model_of(kind: str, *, checkpointing: bool = False) -> PreTrainedModel:
    if kind == "gpt2":
        torch.manual_seed(0)
        model: PreTrainedModel = GPT2LMHeadModel(GPT2Config(**GPT2, initializer_range=0.15))
    elif kind == "attention":
        model = tiny.make_model("llama", attention_dropout=0.2)
    else:
        model = tiny.make_model("llama")
    _set_up(model, checkpointing)
    if kind == "adapters":
        model = with_lora(model, LoraConfig(enabled=True, dropout=0.3, init_lora_weights="gaussian"))
        for name, weight in model.named_parameters():
            if ".lora_B." in name:
                torch.nn.init.normal_(weight.data, std=0.2)
    return model


def learner_of(kind: str, checkpointing: bool = False, **settings: Any) -> LocalLearner:
    model = model_of(kind, checkpointing=checkpointing)
    return tiny.make_learner(model, tiny.sft_config(**settings).policy, scores_as_trained=True, seed=5)


def trained_on(learner: Any, samples: list[Sample]) -> torch.Tensor:
    """The log-probabilities that a loss sees, in the samples' order."""
    seen: dict[str, torch.Tensor] = {}

    def loss(outputs: Outputs, batch: Batch, totals: Totals) -> LossOutput:
        parts = outputs.logprobs_N.detach().split(batch.lengths_S.tolist())
        seen.update(zip(batch.ids, parts, strict=True))
        return weighted(outputs, batch, totals)

    tiny.run(learner.forward_backward(samples, loss))
    return torch.cat([seen[sample.id] for sample in samples])


@pytest.mark.parametrize("kind", ["gpt2", "attention", "adapters"])
def test_a_sample_drops_the_same_in_every_layout_and_forward(kind: str) -> None:
    samples = groups()
    alone = learner_of(kind, train_micro_batch_size=1)
    logprobs = torch.cat(tiny.run(alone.forward(samples)))
    torch.testing.assert_close(trained_on(alone, samples), logprobs, rtol=1e-5, atol=1e-5)
    for ways in (
        {"train_micro_batch_size": 6},
        {"train_micro_batch_size": 6, "checkpointing": True},
        {"dynamic_batching": BY_TOKENS},
        {"sequence_packing": BY_TOKENS},
    ):
        other = learner_of(kind, **ways)
        torch.testing.assert_close(
            torch.cat(tiny.run(other.forward(samples))), logprobs, rtol=1e-4, atol=1e-4
        )
        tiny.run(other.forward_backward(samples, weighted))
        assert tiny.largest_gap(tiny.gradients(other.model), tiny.gradients(alone.model)) < 1e-4, ways
    other = tiny.make_learner(model_of(kind), scores_as_trained=True, seed=6)
    assert (torch.cat(tiny.run(other.forward(samples))) - logprobs).abs().mean() > 0.01
    bare = tiny.make_learner(model_of(kind))
    assert (torch.cat(tiny.run(bare.forward(samples))) - logprobs).abs().mean() > 0.01


def test_the_rate_is_kept_and_every_place_has_a_mask_of_its_own() -> None:
    keys = counted(key_of("a"), torch.arange(4000)).reshape(2, 2000)
    ones = torch.ones(2, 2000, 8)
    with dropout.SampleDropout(keys):
        first, second = (torch.nn.functional.dropout(ones, 0.25) for _ in range(2))
    assert sorted(first.unique().tolist()) == [0.0, pytest.approx(4 / 3)]
    both = (first > 0) & (second > 0)
    for kept, share in ((first > 0, 0.75), (second > 0, 0.75), (both, 0.75**2)):
        assert (kept.float().mean((0, 1)) - share).abs().max() < 0.04


def gpt2_folder(folder: Path) -> str:
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(**GPT2, initializer_range=0.15)).save_pretrained(folder)
    tiny.make_tokenizer().save_pretrained(folder)
    return str(folder)


def pairs() -> list[Sample]:
    samples = tiny.make_samples(8)
    for index, sample in enumerate(samples):
        sample.unit, sample.sequence_columns = f"pair{index // 2}", {"label": 1.0 - 2 * (index % 2)}
    return samples


def test_the_first_loss_of_dpo_is_log_2_with_gpt_2s_dropout(tmp_path: Path) -> None:
    settings = {"model_name": gpt2_folder(tmp_path), "precision": "float32", "max_total_sequence_length": 64}
    config = DPOConfig(policy={**settings, "train_micro_batch_size": 2})
    engine = build(config, tiny.make_tokenizer())
    assert [
        text for text in engine.notices if "attn_pdrop 0.1, embd_pdrop 0.1, resid_pdrop 0.1) is off" in text
    ]
    samples = pairs()
    for sample, logprobs in zip(samples, tiny.run(engine.learner.forward(samples)), strict=True):
        sample.sequence_columns["reference_logprob_sum"] = float(logprobs.double().sum())
    loss: PreferenceObjective = tiny.run(
        loss_of(engine.learner, samples, config.dpo, paired=True, moments=Moments())
    )
    metrics = tiny.run(engine.learner.forward_backward(samples, loss))
    assert metrics["loss"] == pytest.approx(math.log(2), abs=1e-5)


def test_dropout_stays_on_in_sft_and_where_it_is_asked_for(tmp_path: Path) -> None:
    policy = {"model_name": gpt2_folder(tmp_path), "precision": "float32", "max_total_sequence_length": 64}
    sft = build(SFTConfig(policy=policy), tiny.make_tokenizer())
    assert [text for text in sft.notices if "policy.disable_dropout=true turns it off" in text]
    grpo = build(GRPOConfig(policy={**policy, "disable_dropout": False}), tiny.make_tokenizer())
    for engine, same in ((sft, False), (grpo, True)):
        samples = groups()
        scored = torch.cat(tiny.run(engine.learner.forward(samples)))
        assert torch.allclose(trained_on(engine.learner, samples), scored, atol=1e-5) is same
        if engine is grpo:
            reference = torch.cat(tiny.run(engine.reference.forward(samples)))
            torch.testing.assert_close(reference, scored, rtol=1e-5, atol=1e-5)
