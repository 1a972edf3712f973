"""What every generator must do, as functions of a `Subject`: a generator and the learner whose weights it samples from.

`CHECKS` is run on each generator of tests/conformance/generators, and on the one of docs/add-a-generator.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from generating import make_prompts
from tiny import make_samples, run

from hone.algorithms import sft
from hone.engine.base import WeightTransport
from hone.engine.local.learner import LocalLearner
from hone.errors import WeightSyncError
from hone.types import Completion, Generator, Prompt, Rollout, Sampling, VersionSpan, sample_of

STOPS = (1, 7, 11)
"""End-of-sequence tokens of the subject's model."""
CONTEXT = 48
CLOSE = 1e-4


@dataclass
class Subject:
    """A generator whose weights are the learner's; `transport` brings it later ones."""

    generator: Generator
    learner: LocalLearner
    transport: WeightTransport
    decode: Callable[[list[int]], str]
    batch_invariant: bool = True
    """A completion is the same whatever shares its batch."""

    def sample(
        self, prompts: list[Prompt] | None = None, *, count: int = 2, **settings: Any
    ) -> list[list[Completion]]:
        sampling = Sampling(**{"max_new_tokens": 12, "seed": 3} | settings)
        return run(self.generator.generate(prompts or make_prompts(), sampling, count=count))

    def sync(self, version: int) -> None:
        run(self.transport.publish(version))
        run(self.transport.receive(version))

    def gap(self, prompts: list[Prompt], done: list[list[Completion]]) -> float:
        """Largest difference of a log-probability from the learner's forward."""
        pairs = [(prompt, one) for prompt, each in zip(prompts, done, strict=True) for one in each]
        samples = [sample_of(Rollout(prompt, one, "")) for prompt, one in pairs]
        expected = run(self.learner.forward(samples))
        gaps = [
            float((sample.token_columns["generation_logprobs"] - values).abs().max())
            for sample, values in zip(samples, expected, strict=True)
        ]
        return max(gaps)


def flat(done: list[list[Completion]]) -> list[Completion]:
    return [completion for each in done for completion in each]


def log_probabilities_are_the_learners(subject: Subject) -> None:
    prompts = make_prompts()
    done = subject.sample(prompts, count=3)
    assert all(len(one.tokens) == len(one.logprobs) for one in flat(done))
    assert subject.gap(prompts, done) < CLOSE
    filtered = subject.sample(prompts, top_k=5, top_p=0.8)  # of the whole distribution, filters or not
    assert subject.gap(prompts, filtered) < CLOSE


def temperature_0_is_greedy(subject: Subject) -> None:
    prompt = make_prompts((5,))[0]
    one = subject.sample([prompt], count=1, temperature=0.0, ignore_eos=True)[0][0]
    tokens = torch.tensor([prompt.tokens + one.tokens])
    with torch.no_grad():
        best = subject.learner.model(input_ids=tokens).logits[0].argmax(-1)
    assert one.tokens == tuple(best[len(prompt.tokens) - 1 : -1].tolist())


def every_prompt_has_its_completions_in_order(subject: Subject) -> None:
    prompts = make_prompts()
    done = subject.sample(prompts, count=3)
    assert [len(each) for each in done] == [3] * len(prompts)
    for prompt, each in zip(prompts, done, strict=True) if subject.batch_invariant else ():
        alone = subject.sample([prompt], count=3)[0]
        assert [one.tokens for one in alone] == [one.tokens for one in each]


def a_completion_is_the_same_whatever_shares_its_batch(subject: Subject) -> None:
    if not subject.batch_invariant:
        pytest.skip("its completions depend on the batch")
    prompts = make_prompts()
    done = subject.sample(prompts, count=2)
    reordered = subject.sample(prompts[::-1], count=2)[::-1]
    assert [one.tokens for one in flat(done)] == [one.tokens for one in flat(reordered)]
    second = subject.sample([replace(prompts[0], first_completion=1)], count=1)[0][0]
    assert second.tokens == done[0][1].tokens


def another_seed_samples_others(subject: Subject) -> None:
    assert subject.sample(seed=1) != subject.sample(seed=2)


def every_end_of_sequence_token_ends_a_completion(subject: Subject) -> None:
    done = flat(subject.sample(count=40, max_new_tokens=30, temperature=1.5))
    ends = {one.tokens[-1] for one in done if one.finish == "stop"}
    assert ends == set(STOPS)
    assert not any(set(STOPS) & set(one.tokens[:-1]) for one in done)
    assert all(len(one.tokens) == 30 for one in done if one.finish == "length")


def stop_token_ids_end_a_completion_too(subject: Subject) -> None:
    done = flat(subject.sample(count=30, max_new_tokens=30, temperature=1.5, stop_token_ids=(20, 21)))
    ends = {one.tokens[-1] for one in done if one.finish == "stop"}
    assert {20, 21} <= ends <= {*STOPS, 20, 21}


def ignored_end_of_sequence_tokens_do_not(subject: Subject) -> None:
    done = flat(subject.sample(count=10, max_new_tokens=20, temperature=1.5, ignore_eos=True))
    assert {(len(one.tokens), one.finish) for one in done} == {(20, "length")}


def a_stop_string_ends_a_completion(subject: Subject) -> None:
    done = flat(
        subject.sample(count=20, max_new_tokens=30, temperature=1.5, ignore_eos=True, stop_strings=("a", "q"))
    )
    stopped = [list(one.tokens) for one in done if one.finish == "stop"]
    assert stopped
    for tokens in stopped:  # the last token completed a stop string; it may hold more than that
        assert {"a", "q"} & set(subject.decode(tokens))
        assert not {"a", "q"} & set(subject.decode(tokens[:-1]))
    going_on = [list(one.tokens) for one in done if one.finish != "stop"]
    assert not any({"a", "q"} & set(subject.decode(tokens)) for tokens in going_on)


def nothing_ends_a_completion_before_its_least_length(subject: Subject) -> None:
    done = flat(subject.sample(count=30, max_new_tokens=20, min_new_tokens=8, temperature=1.5))
    assert min(len(one.tokens) for one in done) >= 8


def the_context_limits_prompt_and_completion_together(subject: Subject) -> None:
    prompt = Prompt("long", (5,) * (CONTEXT - 3), "text")
    one = subject.sample([prompt], count=1, ignore_eos=True)[0][0]
    assert (len(one.tokens), one.finish) == (3, "length")


def completions_follow_the_weights_and_say_their_version(subject: Subject) -> None:
    prompts = make_prompts()
    before = subject.sample(prompts)
    run(sft.step(subject.learner, make_samples(4)))
    subject.sync(7)
    after = subject.sample(prompts)
    assert all(one.versions == (VersionSpan(7, 0, len(one.tokens)),) for one in flat(after))
    assert subject.gap(prompts, after) < CLOSE
    assert [one.logprobs for one in flat(before)] != [one.logprobs for one in flat(after)]


def a_version_that_was_not_published_is_refused(subject: Subject) -> None:
    subject.sync(8)
    before = subject.sample()
    with pytest.raises(WeightSyncError, match=r"version 9.* version 8") as caught:
        run(subject.transport.receive(9))
    assert (caught.value.wanted, caught.value.found) == (9, 8)
    for old, new in zip(flat(before), flat(subject.sample()), strict=True):
        assert (old.tokens, old.versions) == (new.tokens, new.versions)
        assert new.logprobs == pytest.approx(old.logprobs, abs=CLOSE)


CHECKS: tuple[Callable[[Subject], None], ...] = (
    log_probabilities_are_the_learners,
    temperature_0_is_greedy,
    every_prompt_has_its_completions_in_order,
    a_completion_is_the_same_whatever_shares_its_batch,
    another_seed_samples_others,
    every_end_of_sequence_token_ends_a_completion,
    stop_token_ids_end_a_completion_too,
    ignored_end_of_sequence_tokens_do_not,
    a_stop_string_ends_a_completion,
    nothing_ends_a_completion_before_its_least_length,
    the_context_limits_prompt_and_completion_together,
    completions_follow_the_weights_and_say_their_version,
    a_version_that_was_not_published_is_refused,
)
