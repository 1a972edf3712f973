"""Sampling settings by every way that they are given, as far as the generator sees them."""

from __future__ import annotations

from typing import Any

import pytest

from hone.config import load
from hone.rollout.sampler import sampling_from, sampling_of
from hone.types import Sampling

GIVEN = ("top_k=0", "min_p=0.1", "min_tokens=3", "ignore_eos=true", "max_new_tokens=20")
"""vLLM's min_tokens is min_new_tokens."""
SEEN = {"top_k": None, "min_p": 0.1, "min_new_tokens": 3, "ignore_eos": True, "max_new_tokens": 20}


def differing(sampling: Sampling, expected: dict[str, Any]) -> dict[str, Any]:
    found = {name: getattr(sampling, name) for name in expected}
    return {name: value for name, value in found.items() if value != expected[name]}


@pytest.mark.parametrize("kind", ["grpo", "ppo", "distill"])
def test_of_rollouts_and_of_validation(kind: Any) -> None:
    settings = [f"policy.generation.{one}" for one in (*GIVEN, "val_repetition_penalty=1.3", "val_min_p=0.2")]
    config = load(kind, None, settings).config
    assert not differing(sampling_of(config), {**SEEN, "repetition_penalty": 1.0})
    held_out = {**SEEN, "repetition_penalty": 1.3, "min_p": 0.2}
    assert not differing(sampling_of(config, validation=True), held_out)


def test_of_an_evaluation() -> None:
    settings = [f"generation.{one}" for one in (*GIVEN, "repetition_penalty=1.3")]
    config = load("eval", None, settings).config
    assert not differing(
        sampling_from(config.generation, config.eval.seed), {**SEEN, "repetition_penalty": 1.3}
    )


def test_validation_samples_as_training_does_unless_it_is_told() -> None:
    config = load(
        "distill", None, ["policy.generation.min_p=0.1", "policy.generation.repetition_penalty=1.1"]
    ).config
    expected = {"min_p": 0.1, "repetition_penalty": 1.1}
    assert not differing(sampling_of(config), expected)
    assert not differing(sampling_of(config, validation=True), expected)


def test_the_preset_and_the_default_leave_all_of_it_off() -> None:
    off = {"top_k": None, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "min_new_tokens": 0}
    assert not differing(sampling_of(load("grpo", None, ["grpo.preset=dapo"]).config), off)
