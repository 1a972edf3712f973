"""SFT loss and gradients on one ragged batch: a plain reference written out here, and TRL's SFTTrainer. fp32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tiny import (
    PAD,
    gradients,
    largest_gap,
    make_learner,
    make_model,
    make_samples,
    make_tokenizer,
    run,
    sft_config,
)
from torch import Tensor
from transformers import PreTrainedModel

from hone.algorithms.sft import sft_loss
from hone.types import Sample

TOLERANCE = 1e-6
ARCHITECTURES = ["llama", "qwen3"]


def padded(samples: list[Sample]) -> dict[str, Tensor]:
    """input_ids, attention_mask and labels (-100 where no target), right-padded."""
    width = max(map(len, samples))
    ids, mask, labels = (torch.full((len(samples), width), fill) for fill in (PAD, 0, -100))
    for row, sample in enumerate(samples):
        ids[row, : len(sample)] = sample.tokens_T
        mask[row, : len(sample)] = 1
        labels[row, : len(sample)] = sample.tokens_T.where(sample.loss_mask_T, torch.tensor(-100))
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def hone(model: PreTrainedModel, samples: list[Sample], **policy: object) -> tuple[float, dict[str, Tensor]]:
    learner = make_learner(model, sft_config(**{"train_micro_batch_size": 16, **policy}).policy)
    metrics = run(learner.forward_backward(samples, sft_loss))
    return metrics["loss"], gradients(model)


def plain(model: PreTrainedModel, samples: list[Sample]) -> tuple[float, dict[str, Tensor]]:
    """Full logits, cross entropy summed over the targets of all sequences, divided by their number."""
    batch = padded(samples)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    total = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )
    loss = total / sum(sample.num_targets for sample in samples)
    loss.backward()
    return loss.item(), gradients(model)


def trl(model: PreTrainedModel, samples: list[Sample], folder: Path) -> tuple[float, dict[str, Tensor]]:
    """SFTTrainer.compute_loss as its training step calls it: the number of targets is that of the whole batch."""
    from trl import SFTConfig, SFTTrainer

    rows = Dataset.from_list([{"input_ids": [3, 4, 5]}])
    settings = SFTConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False
    )
    trainer = SFTTrainer(model=model, args=settings, train_dataset=rows, processing_class=make_tokenizer())
    count = torch.tensor(sum(sample.num_targets for sample in samples))
    loss = trainer.compute_loss(model, padded(samples), num_items_in_batch=count)
    loss.backward()
    return loss.item(), gradients(model)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equal_to_the_plain_reference(architecture: str) -> None:
    samples = make_samples(6)
    loss, grads = hone(make_model(architecture), samples)
    expected, expected_grads = plain(make_model(architecture), samples)
    assert loss == pytest.approx(expected, rel=TOLERANCE)
    assert largest_gap(grads, expected_grads) < TOLERANCE


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equal_to_trl(architecture: str, trainer_folder: Path) -> None:
    samples = make_samples(6)
    loss, grads = hone(make_model(architecture), samples)
    expected, expected_grads = trl(make_model(architecture), samples, trainer_folder)
    assert loss == pytest.approx(expected, rel=TOLERANCE)
    assert largest_gap(grads, expected_grads) < TOLERANCE


@pytest.mark.parametrize(
    "policy",
    [
        {"train_micro_batch_size": 1},
        {"sequence_packing": {"enabled": True, "train_mb_tokens": 50}},
        {"logprob_chunk_size": 3},
    ],
)
def test_equal_to_trl_in_parts(policy: dict[str, object], trainer_folder: Path) -> None:
    """Accumulated over micro-batches, packed, in chunks: still the number of the whole batch."""
    samples = make_samples(6)
    loss, grads = hone(make_model("qwen3"), samples, **policy)
    expected, expected_grads = trl(make_model("qwen3"), samples, trainer_folder)
    assert loss == pytest.approx(expected, rel=TOLERANCE)
    assert largest_gap(grads, expected_grads) < TOLERANCE


def test_the_comparison_has_teeth() -> None:
    """One target more in one sequence is far outside of the tolerance."""
    samples, more = make_samples(6), make_samples(6)
    more[0].loss_mask_T[1] = not bool(more[0].loss_mask_T[1])
    loss, grads = hone(make_model(), samples)
    other, other_grads = hone(make_model(), more)
    assert loss != pytest.approx(other, rel=1e-3)
    assert largest_gap(grads, other_grads) > 1e-3
