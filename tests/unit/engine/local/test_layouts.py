"""Every layout gives the log-probabilities and gradients of samples alone, by `transformers`' eager attention."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from families import BY_TOKENS, FAMILIES, groups, model_of, weighted
from torch import Tensor

from hone.errors import ConfigError
from hone.types import Sample

NEVER_PACKED = ("gpt_oss", "llama4_text")
"""One is not told of borders by `transformers`, the other counts its chunks from the row's beginning."""
LAYOUTS: dict[str, dict[str, Any]] = {
    "padded, prompts shared": {"train_micro_batch_size": 6},
    "by tokens": {"dynamic_batching": BY_TOKENS},
    "packed": {"sequence_packing": BY_TOKENS},
}


def one_at_a_time(family: str, samples: list[Sample]) -> tuple[list[Tensor], dict[str, Tensor]]:
    model = model_of(family, "eager")
    found = []
    for sample in samples:
        logits = model(input_ids=sample.tokens_T[None]).logits[0, :-1].float()
        targets = sample.tokens_T[1:, None]
        found.append(logits.log_softmax(-1).gather(1, targets)[:, 0][sample.loss_mask_T[1:]])
    total = sum(sample.num_targets for sample in samples)
    weights = torch.cat([sample.token_columns["weight"] for sample in samples])
    (-(weights * torch.cat(found)).sum() / total).backward()
    return [each.detach() for each in found], tiny.gradients(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_layouts_agree_with_samples_alone(family: str) -> None:
    samples = groups()
    logprobs, gradients = one_at_a_time(family, samples)
    for layout, settings in LAYOUTS.items():
        model = model_of(family, None)
        policy = tiny.sft_config(**settings).policy
        if layout == "packed" and family in NEVER_PACKED:
            with pytest.raises(ConfigError, match="would see each other"):
                tiny.make_learner(model, policy)
            continue
        learner = tiny.make_learner(model, policy)
        found = tiny.run(learner.forward(samples))
        found += tiny.run(learner.forward(samples[:3]))  # a row of one prompt's completions
        for ours, theirs in zip(found, [*logprobs, *logprobs[:3]], strict=True):
            assert float((ours - theirs).abs().max()) < 1e-4, layout
        tiny.run(learner.forward_backward(samples, weighted))
        assert tiny.largest_gap(tiny.gradients(model), gradients) < 1e-4, layout


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_rank_without_work_has_no_targets(family: str) -> None:
    learner = tiny.make_learner(model_of(family, None))
    outputs = learner._outputs(learner._collate(groups(), []), weighted)
    assert outputs.logprobs_N.shape == (0,)
