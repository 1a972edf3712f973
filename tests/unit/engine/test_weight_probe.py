"""A generator that does not sample from the learner's weights is found by what it samples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from generating import make_generator
from tiny import VOCABULARY, make_learner, make_model, run

from hone.engine.base import Transport
from hone.engine.local.generator import LocalGenerator
from hone.engine.local.learner import LocalLearner
from hone.engine.weight_files import FilePublisher, FileReceiver
from hone.engine.weight_probe import ProbedTransport, probe_prompts
from hone.errors import WeightSyncError


def probed(folder: Path, temperature: float = 1.0) -> tuple[LocalLearner, LocalGenerator, ProbedTransport]:
    learner = make_learner(make_model("qwen3"), temperature=temperature)
    generator = make_generator(make_model("qwen3", seed=5))
    files = Transport(FilePublisher(learner.weights, folder), FileReceiver(generator, folder))
    return (
        learner,
        generator,
        ProbedTransport(
            files,
            generator,
            learner,
            tokens=VOCABULARY,
            temperature=temperature,
            dtype=torch.float32,
        ),
    )


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_learners_weights_pass(temperature: float, tmp_path: Path) -> None:
    _, _, transport = probed(tmp_path, temperature)
    run(transport.publish(1))
    run(transport.receive(1))
    assert transport.gap < 1e-5


def test_a_head_that_stayed_behind_stops_the_run(tmp_path: Path) -> None:
    learner, generator, transport = probed(tmp_path)
    run(transport.publish(1))
    run(transport.receive(1))
    copied = generator.model.lm_head.weight.detach().clone()
    with torch.no_grad():
        learner.model.model.embed_tokens.weight.mul_(1.05)
    run(transport.publish(2))
    # Its kernel computes from a copy of its own, which no checksum of the weights sees.
    generator.model.lm_head.forward = lambda hidden: torch.nn.functional.linear(hidden, copied)
    with pytest.raises(WeightSyncError, match=r"version 2.*differ from the learner's by 0\.\d+ nats"):
        run(transport.receive(2))


def test_prompts_are_always_the_same_and_within_the_vocabulary() -> None:
    first, second = probe_prompts(7), probe_prompts(7)
    assert first == second
    assert {token for prompt in first for token in prompt.tokens} == set(range(7))
