"""Check after every weight update that a remote generator samples from the learner's weights.

A checksum verifies what arrived, but not what the generator computes with: a head that was tied to the embeddings may
keep its old weights, and so may a kernel's own copy. The probe samples a few short completions of fixed prompts and
compares their log-probabilities with the learner's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import takewhile

import torch

from hone.errors import WeightSyncError
from hone.model.counter_rng import counted
from hone.types import Completion, Generator, LogprobModel, Prompt, Rollout, Sampling, sample_of

TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
"""In nats, by the generator's precision. Measured with right weights: 2e-6 in fp32, 0.02 in bf16."""
PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 4, 12, 16


class WeightProbe:
    """Compares the log-probabilities of generators with the learner's, in nats.

    `tokens` is the size of the vocabulary, `temperature` that of sampling and of the learner's log-probabilities.
    """

    def __init__(self, learner: LogprobModel, *, tokens: int, temperature: float, dtype: torch.dtype) -> None:
        self.learner = learner
        self.prompts = probe_prompts(tokens)
        self.sampling = Sampling(NEW_TOKENS, temperature=temperature, seed=1, ignore_eos=True)
        self.tolerance = TOLERANCES[dtype]
        self.gap = 0.0
        """The largest mean difference that the last `check` found."""
        self._version: int | None = None
        self._sampled: list[Completion] = []
        """By a generator that passed the check of this version."""

    async def sample(self, generator: Generator) -> list[Completion]:
        """The generator's completions of the fixed prompts."""
        return [one for (one,) in await generator.generate(self.prompts, self.sampling)]

    async def check(self, version: int, sampled: Sequence[list[Completion]]) -> None:
        """Compare what generators sampled with the learner, which has the weights of `version`.

        Raises WeightSyncError if one of them does not sample from these weights.
        """
        samples = [
            sample_of(Rollout(p, c, "")) for own in sampled for p, c in zip(self.prompts, own, strict=True)
        ]
        expected = await self.learner.forward(samples)
        gaps = [
            (sample.token_columns["generation_logprobs"] - logprobs.cpu()).abs()
            for sample, logprobs in zip(samples, expected, strict=True)
        ]
        means = [float(torch.cat(gaps[i : i + PROMPTS]).mean()) for i in range(0, len(gaps), PROMPTS)]
        self.gap = max(means)
        self._refuse(version, self.gap, "the learner's")
        self._version, self._sampled = version, sampled[0]

    async def check_again(self, version: int, generator: Generator) -> None:
        """Compare a generator that received `version` late with one that passed `check`, since the learner may have
        moved on.

        Seeds are the same, so completions are, too, up to a token that rounding decided. Raises WeightSyncError.
        """
        if version != self._version:  # `check` follows
            return
        differences = [
            abs(a - b)
            for old, new in zip(self._sampled, await self.sample(generator), strict=True)
            for a, b in zip(*_same_tokens(old, new), strict=True)
        ]
        gap = sum(differences) / len(differences) if differences else math.inf
        self._refuse(version, gap, "those of the same weights before")

    def _refuse(self, version: int, gap: float, other: str) -> None:
        if not gap <= self.tolerance:
            raise WeightSyncError(
                version,
                version,
                f"log-probabilities of the generator differ from {other} by {gap:.2g} nats on average (at most "
                f"{self.tolerance:g} is rounding): it does not sample from the learner's weights",
            )


def _same_tokens(a: Completion, b: Completion) -> tuple[Sequence[float], Sequence[float]]:
    """The log-probabilities of both as long as their tokens are equal."""
    equal = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a.tokens, b.tokens, strict=False)))
    return a.logprobs[:equal], b.logprobs[:equal]


def probe_prompts(tokens: int) -> list[Prompt]:
    """Fixed prompts of tokens that are spread over a vocabulary of `tokens`."""
    numbers = counted(torch.arange(PROMPTS)[:, None], torch.arange(PROMPT_TOKENS)[None]) % tokens
    return [Prompt(f"probe{i}", tuple(row), "") for i, row in enumerate(numbers.tolist())]
