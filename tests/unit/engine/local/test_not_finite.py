"""Logits that are not finite end a run with one message, wherever they are met."""

from __future__ import annotations

import pytest
import torch
from generating import make_generator, make_prompts
from tiny import make_learner, make_model, make_samples, run
from transformers import PreTrainedModel

from hone.errors import ModelError
from hone.types import Sampling


def overflowing() -> PreTrainedModel:
    """Weights are finite, and products of them are not."""
    model = make_model()
    with torch.no_grad():
        model.get_output_embeddings().weight[7] = 3e38
    return model


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_generator_names_model_precision_and_prompt(temperature: float) -> None:
    expected = r"^the llama model, computed in float32, gives logits that are not finite for prompt \S+, after 0 tokens"
    with pytest.raises(ModelError, match=expected):
        run(
            make_generator(overflowing()).generate(
                make_prompts(), Sampling(max_new_tokens=4, temperature=temperature, seed=1), count=2
            )
        )


def test_a_temperature_that_overflows_is_said_to() -> None:
    with pytest.raises(ModelError, match="temperature=1e-40 is too small to divide by: 0 is greedy"):
        run(
            make_generator(make_model()).generate(
                make_prompts(), Sampling(max_new_tokens=4, temperature=1e-40)
            )
        )


def test_the_learner_names_model_precision_and_samples() -> None:
    expected = (
        "the llama model, computed in policy.precision=float32, has logits that are not finite, in samples r"
    )
    with pytest.raises(ModelError, match=expected):
        run(make_learner(overflowing()).forward(make_samples(3)))
