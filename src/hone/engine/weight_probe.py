"""Check after every weight update that a remote generator samples from the learner's weights.

A checksum verifies what arrived, but not what the generator computes with: a head that was tied to the embeddings may
keep its old weights, and so may a kernel's own copy. The probe samples a few short completions of fixed prompts and
compares their log-probabilities with the learner's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hone.engine.base import WeightTransport
from hone.errors import WeightSyncError
from hone.model.counter_rng import counted
from hone.types import Generator, LogprobModel, Prompt, Rollout, Sampling, sample_of

TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
"""In nats, by the generator's precision. Measured with right weights: 2e-6 in fp32, 0.02 in bf16."""
PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 4, 12, 16


class ProbedTransport:
    """A transport that probes the generator after every `receive`.

    `tokens` is the size of the vocabulary, `temperature` that of sampling and of the learner's log-probabilities. `gap`
    is the mean absolute difference in nats that the last probe found.
    """

    def __init__(
        self,
        transport: WeightTransport,
        generator: Generator,
        learner: LogprobModel,
        *,
        tokens: int,
        temperature: float,
        dtype: torch.dtype,
    ) -> None:
        self.transport, self.generator, self.learner = transport, generator, learner
        self.publish = transport.publish
        self.prompts = probe_prompts(tokens)
        self.sampling = Sampling(NEW_TOKENS, temperature=temperature, seed=1, ignore_eos=True)
        self.tolerance = TOLERANCES[dtype]
        self.gap = 0.0

    async def receive(self, version: int) -> None:
        """Load a version. Raises WeightSyncError if the generator then does not sample from the learner's weights."""
        await self.transport.receive(version)
        self.gap = await self._gap()
        if not self.gap <= self.tolerance:
            raise WeightSyncError(
                version,
                version,
                f"log-probabilities of the generator differ from the learner's by {self.gap:.2g} nats on average "
                f"(at most {self.tolerance:g} is rounding): it does not sample from the learner's weights",
            )

    async def _gap(self) -> float:
        done = await self.generator.generate(self.prompts, self.sampling)
        samples = [sample_of(Rollout(p, c, "")) for p, (c,) in zip(self.prompts, done, strict=True)]
        expected = await self.learner.forward(samples)
        found: list[Tensor] = [sample.token_columns["generation_logprobs"] for sample in samples]
        return float((torch.cat(found) - torch.cat(expected).cpu()).abs().mean())


def probe_prompts(tokens: int) -> list[Prompt]:
    """Fixed prompts of tokens that are spread over a vocabulary of `tokens`."""
    numbers = counted(torch.arange(PROMPTS)[:, None], torch.arange(PROMPT_TOKENS)[None]) % tokens
    return [Prompt(f"probe{i}", tuple(row), "") for i, row in enumerate(numbers.tolist())]
