"""A completion while it is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hone.engine.requests import completion_limit
from hone.errors import ModelError
from hone.model.counter_rng import key_of
from hone.model.loading import name_of
from hone.types import Completion, Prompt, Sampling, VersionSpan

SMALLEST_TEMPERATURE = 1e-6


@dataclass(eq=False)
class DecodingRow:
    """The tokens sampled so far after a prompt, and when they end."""

    prompt: Prompt
    sampling: Sampling
    seed: int
    """Of its random numbers: from the run's seed, the prompt's id and the completion's index."""
    limit: int
    number: int = 0
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    """Of the weights that sampled each token."""
    stopped: bool = False

    def __post_init__(self) -> None:
        self.sampling_kind = replace(self.sampling, seed=0, max_new_tokens=0)
        """Equal for rows that can be sampled together."""

    @classmethod
    def of(cls, prompt: Prompt, number: int, sampling: Sampling, context: int) -> DecodingRow:
        """The row of a completion's index. Raises HoneError for a prompt that is empty or too long."""
        limit = completion_limit(prompt, sampling, context)
        return cls(prompt, sampling, key_of(sampling.seed, prompt.id, number), limit, number)

    @property
    def key(self) -> tuple[str, int]:
        """The prompt's id, and the number of the completion."""
        return self.prompt.id, self.number

    @property
    def finished(self) -> bool:
        return self.stopped or len(self.tokens) >= self.limit

    def add(
        self, token: int, logprob: float, version: int, *, ends: bool, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        """Append a token. `ends`: it is one of the tokens that end a completion."""
        self.tokens.append(token)
        self.logprobs.append(logprob)
        self.versions.append(version)
        self.stopped = ends or self._hit_stop_string(tokenizer)

    def _hit_stop_string(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        strings = self.sampling.stop_strings
        if not strings:
            return False
        # A token is at least a byte; 8 more for characters that the cut splits.
        tail = max(len(text.encode()) for text in strings) + 8
        begin = max(self.sampling.min_new_tokens, len(self.tokens) - tail)  # before that, a text ends nothing
        text = tokenizer.decode(self.tokens[begin:])
        return any(stop in text for stop in strings)

    def completion(self) -> Completion:
        """What was sampled, with the versions of the weights that sampled it."""
        spans: list[VersionSpan] = []
        for version, tokens in groupby(self.versions):
            start = spans[-1].end if spans else 0
            spans.append(VersionSpan(version, start, start + len(list(tokens))))
        return Completion(
            tokens=tuple(self.tokens),
            logprobs=tuple(self.logprobs),
            finish="stop" if self.stopped else "length",
            versions=tuple(spans),
        )


def check_finite(
    model: PreTrainedModel, rows: Sequence[DecodingRow], logprobs: Tensor, dtype: torch.dtype
) -> None:
    """Raise ModelError where logits, computed in `dtype`, were nan or infinite: the log-probability of any token is
    nan then."""
    if not (bad := logprobs.isnan()).any():
        return
    row = rows[int(bad.nonzero()[0])]
    cause = "Look at its weights, or compute in float32 or bfloat16 (precision)"
    if 0 < row.sampling.temperature < SMALLEST_TEMPERATURE:
        cause = f"temperature={row.sampling.temperature} is too small to divide by: 0 is greedy"
    precision = str(dtype).removeprefix("torch.")
    raise ModelError(
        f"{name_of(model)}, computed in {precision}, gives logits that are not finite for prompt "
        f"{row.prompt.id}, after {len(row.tokens)} tokens of its completion. {cause}"
    )
