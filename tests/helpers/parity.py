"""What tests of parity share: an optimizer that keeps rounding small, models with a scalar head, the comparison."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import CONFIGS
from transformers import AutoModelForSequenceClassification

from hone.config.schema.lora import LoraConfig
from hone.model.adapters import with_lora
from hone.model.attention import use_grouped_sdpa

ADAMW = {"name": "torch.optim.AdamW", "kwargs": {"lr": 1e-3, "weight_decay": 0.01, "eps": 1e-4}}
"""Adam divides a gradient by its own size. Where the terms of a sum cancel (a token's, over a group's advantages) that
makes a whole step of rounding noise, in one process with other micro-batches too; `eps` keeps such gradients small."""
UPDATES = 20
LORA = LoraConfig(enabled=True, dim=2)
Trained = tuple[list[dict[str, float]], dict[str, torch.Tensor]]
"""Metrics of each update, and the weights at the end."""
TrainedValues = tuple[list[dict[str, float]], dict[str, torch.Tensor], list[torch.Tensor]]
"""The same, and the values of some samples."""


def make_scalar(kind: str = "llama", seed: int = 0, lora: bool = False) -> Any:
    """A tiny model with a scalar head."""
    torch.manual_seed(seed)
    config = CONFIGS[kind](num_labels=1)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    use_grouped_sdpa(model)
    model.config.use_cache = False
    return with_lora(model, LORA) if lora else model


def compare(one: Trained, several: list[Trained], tolerance: float = 1e-5) -> None:
    """One process and several ranks: equal but for rounding; the ranks among each other: equal to the bit."""
    for history, weights in several:
        for ours, theirs in zip(history, one[0], strict=True):
            assert ours.keys() == theirs.keys()
            for name in ours:
                # A clip that one token more or less passes moves the norm before it moves anything else.
                near = 10 * tolerance if name == "grad_norm" else tolerance
                assert ours[name] == pytest.approx(theirs[name], rel=near, abs=near), name
        assert weights.keys() == one[1].keys()
        for name, weight in weights.items():
            torch.testing.assert_close(weight, one[1][name], rtol=0, atol=tolerance)
    first = several[0]
    for history, weights in several[1:]:
        assert history == first[0], "ranks report different numbers"
        assert all(torch.equal(weight, first[1][name]) for name, weight in weights.items())


def compare_values(one: TrainedValues, several: list[TrainedValues], tolerance: float = 1e-5) -> None:
    """The same with the values of some samples."""
    for history, weights, values in several:
        for ours, theirs in zip(history, one[0], strict=True):
            for name in theirs:
                near = 10 * tolerance if name == "grad_norm" else tolerance
                assert ours[name] == pytest.approx(theirs[name], rel=near, abs=near), name
        assert weights.keys() == one[1].keys()
        for name, weight in weights.items():
            torch.testing.assert_close(weight, one[1][name], rtol=0, atol=tolerance)
        for ours, theirs in zip(values, one[2], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=10 * tolerance)
