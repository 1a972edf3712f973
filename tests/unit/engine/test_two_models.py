"""An engine with a policy and a value model: two learners, two folders of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import make_model, make_samples, make_tokenizer, run

from hone.algorithms import sft
from hone.config.schema.ppo import PPOConfig
from hone.engine import build
from hone.engine.local.local_engine import LocalEngine
from hone.export import convert
from hone.types import Batch, LossOutput, Outputs, Totals


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_model("qwen3").save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path


def engine_of(folder: Path) -> LocalEngine:
    shared = {"model_name": str(folder / "model"), "precision": "float32", "max_total_sequence_length": 64}
    config = PPOConfig(
        policy=shared | {"train_micro_batch_size": 2}, loss_fn={"reference_policy_kl_penalty": 0.0}
    )
    engine = build(config, make_tokenizer())
    assert isinstance(engine, LocalEngine)
    return engine


def values_near_one(outputs: Outputs, batch: Batch, totals: Totals) -> LossOutput:
    assert outputs.values_N is not None
    return LossOutput((outputs.values_N - 1).square().sum() / totals.tokens)


def test_both_are_trained_saved_and_resumed(folder: Path) -> None:
    engine, samples = engine_of(folder), make_samples(4)
    assert engine.value is not None
    assert list(engine.trained_models) == ["policy", "value"]
    assert engine.learner.model is not engine.value.model
    run(sft.step(engine.learner, samples))
    losses = []
    for _ in range(3):
        losses.append(run(engine.value.forward_backward(samples, values_near_one))["loss"])
        run(engine.value.optim_step())
    assert losses[-1] < losses[0]
    for name, part in engine.trained_models.items():
        run(part.save(folder / "step" / name))
    again = engine_of(folder)
    for name, part in again.trained_models.items():
        run(part.load(folder / "step" / name))
    for one, other in ((engine.learner, again.learner), (engine.value, again.value)):
        assert other is not None
        for mine, theirs in zip(run(one.forward(samples)), run(other.forward(samples)), strict=True):
            assert torch.equal(mine, theirs)


def test_a_value_model_converts_by_itself(folder: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    engine = engine_of(folder)
    assert engine.value is not None
    run(engine.value.save(folder / "step" / "value"))
    make_tokenizer().save_pretrained(folder / "step" / "policy" / "tokenizer")
    (folder / "config.yaml").write_text("policy: {tokenizer: {name: x}}\nvalue: {tokenizer: {name: x}}\n")
    out = convert(folder / "config.yaml", folder / "step" / "value" / "weights", folder / "out")
    loaded = AutoModelForSequenceClassification.from_pretrained(out).eval()
    (sample,) = make_samples(1)
    end = int(sample.loss_mask_T.nonzero()[0])
    (values,) = run(engine.value.forward([sample]))
    assert loaded(sample.tokens_T[None, :end]).logits.item() == pytest.approx(float(values[0]), abs=1e-5)
