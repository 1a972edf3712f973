"""A generator that does not sample from the learner's weights is found by what it samples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from generating import make_generator
from tiny import VOCABULARY, make_learner, make_model, run

from hone.engine.local.generator import LocalGenerator
from hone.engine.weight_files import FilePublisher, FileReceiver
from hone.engine.weight_probe import WeightProbe, probe_prompts
from hone.errors import WeightSyncError


class Probed:
    """A learner, and a generator that gets its weights through files."""

    def __init__(self, folder: Path, temperature: float = 1.0) -> None:
        self.learner = make_learner(make_model("qwen3"), temperature=temperature)
        self.generator, self.late = (make_generator(make_model("qwen3", seed=seed)) for seed in (5, 6))
        self.files = FilePublisher(self.learner.weights, folder)
        self.folder = folder
        self.probe = WeightProbe(
            self.learner, tokens=VOCABULARY, temperature=temperature, dtype=torch.float32
        )

    def sync(self, version: int) -> None:
        run(self.files.publish(version))
        self.receive(self.generator, version)

    def receive(self, generator: LocalGenerator, version: int) -> None:
        run(FileReceiver(generator, self.folder).receive(version))

    def check(self, version: int) -> None:
        run(self.probe.check(version, [run(self.probe.sample(self.generator))]))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_learners_weights_pass(temperature: float, tmp_path: Path) -> None:
    probed = Probed(tmp_path, temperature)
    probed.sync(1)
    probed.check(1)
    assert probed.probe.gap < 1e-5


def test_one_generator_of_several_with_other_weights_stops_the_run(tmp_path: Path) -> None:
    probed = Probed(tmp_path)
    probed.sync(1)
    sampled = [run(probed.probe.sample(one)) for one in (probed.generator, probed.generator, probed.late)]
    with pytest.raises(WeightSyncError, match="differ from the learner's by"):
        run(probed.probe.check(1, sampled))


def test_a_head_that_stayed_behind_stops_the_run(tmp_path: Path) -> None:
    probed = Probed(tmp_path)
    probed.sync(1)
    probed.check(1)
    copied = probed.generator.model.lm_head.weight.detach().clone()
    with torch.no_grad():
        probed.learner.model.model.embed_tokens.weight.mul_(1.05)
    probed.sync(2)
    # Its kernel computes from a copy of its own, which no checksum of the weights sees.
    probed.generator.model.lm_head.forward = lambda hidden: torch.nn.functional.linear(hidden, copied)
    with pytest.raises(WeightSyncError, match=r"version 2.*differ from the learner's by 0\.\d+ nats"):
        probed.check(2)


def test_a_generator_that_comes_later_is_compared_with_one_that_passed(tmp_path: Path) -> None:
    """The learner has moved on by then."""
    probed = Probed(tmp_path)
    probed.sync(1)
    probed.check(1)
    with torch.no_grad():
        probed.learner.model.model.embed_tokens.weight.mul_(1.05)
    with pytest.raises(WeightSyncError, match="differ from those of the same weights before"):
        run(probed.probe.check_again(1, probed.late))
    run(probed.probe.check_again(2, probed.late))  # a version that is checked for all of them next
    probed.receive(probed.late, 1)
    run(probed.probe.check_again(1, probed.late))


def test_prompts_are_always_the_same_and_within_the_vocabulary() -> None:
    first, second = probe_prompts(7), probe_prompts(7)
    assert first == second
    assert {token for prompt in first for token in prompt.tokens} == set(range(7))
