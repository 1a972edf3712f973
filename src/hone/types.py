"""The data types, in the order of the data flow: Prompt -> Completion -> Rollout -> Group -> Sample -> Batch -> loss.

Shapes are in the names: `_T` tokens of one sequence, `_N` target tokens of a batch laid end to end, `_S` sequences of a
batch. A *target token* is one that the loss sees: its log-probability given all before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

Message = dict[str, Any]


@dataclass(frozen=True)
class Prompt:
    """One prompt as drawn from the dataset. `id` is unique for each draw and keys the group (never the text)."""

    id: str
    tokens: tuple[int, ...]
    content: str | list[Message]
    """The prompt as reward functions get it in `prompts`: text, or messages for conversational data."""
    row: Mapping[str, Any] = field(default_factory=dict)
    """All columns of the dataset row; reward functions receive them as keyword arguments."""
    dataset: str = ""
    env: str = ""
    first_completion: int = 0
    """The index of its first completion: sampling depends on the prompt's id and the completion's index."""


class VersionSpan(NamedTuple):
    """Tokens [start, end) were sampled from the weights of `version`."""

    version: int
    start: int
    end: int


@dataclass(frozen=True)
class Completion:
    """The tokens that the generator sampled; they are never decoded and re-encoded on their way to the loss."""

    tokens: tuple[int, ...]
    """The end-of-sequence token is included if one was sampled."""
    logprobs: tuple[float, ...]
    """Log-probability of each token under the full softmax at the sampling temperature, before top-p and the like."""
    finish: Literal["stop", "length", "turns"]
    """`length`: cut off by a limit of tokens; `turns`: cut off by its environment's limit of turns."""
    versions: tuple[VersionSpan, ...]
    """The version of the weights that sampled each token, in order."""
    mask: tuple[bool, ...] | None = None
    """False for tokens that an environment wrote: not trained on, with log-probability 0. None: all True."""

    @classmethod
    def of_version(
        cls,
        tokens: tuple[int, ...],
        logprobs: tuple[float, ...],
        finish: Literal["stop", "length", "turns"],
        version: int,
        mask: tuple[bool, ...] | None = None,
    ) -> Completion:
        """A completion sampled from weights of one version."""
        return cls(tokens, logprobs, finish, (VersionSpan(version, 0, len(tokens)),), mask)

    @property
    def version(self) -> int:
        """The oldest version of the weights that sampled any of its tokens; 0 if none was sampled."""
        return min((span.version for span in self.versions), default=0)

    @property
    def num_sampled(self) -> int:
        return len(self.tokens) if self.mask is None else sum(self.mask)


@dataclass
class Rollout:
    """A completion with its scores. If `reward` is None the rollout failed, and `failure` is the cause."""

    prompt: Prompt
    completion: Completion
    text: str
    messages: list[Message] | None = None
    """All messages after the prompt, if there is more than one answer; reward functions get these."""
    rewards: dict[str, float | None] = field(default_factory=dict)  # None: the function does not apply
    weights: dict[str, float] = field(default_factory=dict)
    """The weight of each of `rewards` in `reward`, at the time of scoring."""
    judge: str | None = None
    """The one of `rewards` that judges whether the answer is right. None: the first; empty: none."""
    reward: float | None = None  # weighted sum of `rewards`
    extra: dict[str, Any] = field(default_factory=dict)
    """Values that reward functions logged (`log_extra`), by column."""
    failure: str | None = None
    advantage: float | None = None
    stats: dict[str, float] = field(default_factory=dict)
    """Counts of its environment: turns, tool calls, seconds …"""
    excluded: str | None = None
    """Why the rollout is not trained on (e.g. 'truncated'); counted in the metrics."""
    prefill: str = ""
    """The beginning of the answer at the end of the prompt, such as a template's `<think>`."""

    @property
    def judgement(self) -> float | None:
        """The reward that judges whether the answer is right; None if there is none."""
        return self.rewards.get(next(iter(self.rewards), "") if self.judge is None else self.judge)

    @property
    def right(self) -> bool:
        """Whether the answer is right: its judgement, or its reward if the judgement is not 1, 0 or -1, is above 0."""
        verdict = self.judgement if self.judgement in (-1.0, 0.0, 1.0) else self.reward
        return verdict is not None and verdict > 0


@dataclass
class Group:
    """All rollouts of one prompt draw."""

    id: str
    rollouts: list[Rollout]


@dataclass
class Sample:
    """One sequence to train on or to score. `loss_mask_T[t]`: token t is a target; token 0 cannot be one.

    `token_columns` hold a value, or a row of values, for each *target* token, in order; `sequence_columns` hold one
    value for the sequence.
    """

    id: str
    tokens_T: Tensor
    loss_mask_T: Tensor
    token_columns: dict[str, Tensor] = field(default_factory=dict)
    sequence_columns: dict[str, float] = field(default_factory=dict)
    group: str = ""
    prefix: int = 0
    """Number of leading tokens that all samples of the same `group` share, so that they may be computed once."""
    unit: str = ""
    """Samples of one unit (a pair's chosen and rejected side) are in one micro-batch, adjacent and in order. Sizes of
    micro-batches count units. With an empty name the sample is a unit of its own."""
    versions: tuple[VersionSpan, ...] = ()
    """The version of the weights that sampled each of `tokens_T`; empty if the tokens were not sampled."""

    def __len__(self) -> int:
        return int(self.tokens_T.numel())

    @property
    def num_targets(self) -> int:
        return int(self.loss_mask_T.sum())

    def is_sampled_from(self, version: int) -> bool:
        """Whether all sampled tokens come from this version of the weights."""
        return {span.version for span in self.versions} == {version}


@dataclass
class Batch:
    """The target tokens of S sequences laid end to end, as a loss sees them: no padding, no packing, no rank.

    A rank without work gets a unit without targets whose sequence columns are all 0, so it adds 0 to every sum.
    """

    ids: list[str]
    tokens_N: Tensor
    sequence_N: Tensor
    """The index in [0, S) of each target's sequence."""
    lengths_S: Tensor
    """The number of targets of each sequence."""
    token_columns: dict[str, Tensor] = field(default_factory=dict)
    sequence_columns: dict[str, Tensor] = field(default_factory=dict)

    @property
    def num_sequences(self) -> int:
        return len(self.ids)

    def sum_by_sequence(self, values_N: Tensor) -> Tensor:
        """The sum of a per-target value within each sequence: [N] -> [S]."""
        return values_N.new_zeros(self.num_sequences).index_add(0, self.sequence_N, values_N)

    def mean_by_sequence(self, values_N: Tensor) -> Tensor:
        """The mean of a per-target value within each sequence: [N] -> [S]; 0 for a sequence without targets."""
        return self.sum_by_sequence(values_N) / self.lengths_S.clamp(min=1).to(values_N.dtype)

    def per_token(self, values_S: Tensor) -> Tensor:
        """Each target's sequence value: [S] -> [N]."""
        return values_S[self.sequence_N]


@dataclass(frozen=True)
class Totals:
    """Denominators of a loss, counted over the whole global batch before any backward."""

    tokens: float  # target tokens
    sequences: float  # sequences with a target
    sums: Mapping[str, float] = field(default_factory=dict)
    """The sum of each sequence column: a loss that weights sequences divides by the sum of their weights."""


@dataclass
class Outputs:
    """The model's outputs for the targets of a Batch, in fp32.

    A model with a scalar head returns values, each of the state before its target; its `logprobs_N` are nan, so that a
    loss for a language model stops the run.
    """

    logprobs_N: Tensor
    entropy_N: Tensor | None = None
    """Entropy of each target's distribution in nats, with gradient; present if the loss has `needs_entropy`."""
    candidate_logprobs_NK: Tensor | None = None
    """Log-probabilities of the K tokens in the token column `candidates` [N, K] of each target."""
    values_N: Tensor | None = None


@dataclass
class LossOutput:
    """`loss` is this batch's part of the global loss, already divided by the global denominator.

    Metrics are summed over all batches; for `largest`, the maximum over all batches is reported.
    """

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    largest: dict[str, Tensor] = field(default_factory=dict)


LossFn = Callable[[Outputs, Batch, Totals], LossOutput]
"""A loss must be picklable, since it is sent to workers. If its attribute `needs_entropy` is true it gets entropies."""


class LogprobModel(Protocol):
    """A model that returns log-probabilities, or values."""

    async def forward(self, samples: Sequence[Sample]) -> list[Tensor]:
        """Log-probabilities (with a scalar head: values) of the targets: one fp32 tensor [targets] for each sample."""


class Teacher(Protocol):
    """A frozen model queried for its top-k log-probabilities."""

    async def topk_logprobs(self, samples: Sequence[Sample], k: int) -> list[tuple[Tensor, Tensor]]:
        """The `k` most likely tokens at each target, most likely first: (log-probabilities, token ids), both
        [targets, k], for each sample."""


class Learner(LogprobModel, Protocol):
    """A model that is trained."""

    async def entropies(self, samples: Sequence[Sample]) -> list[Tensor]:
        """Entropies at the targets in nats, without gradient: one fp32 tensor [targets] for each sample."""

    async def forward_backward(self, samples: Sequence[Sample], loss: LossFn) -> dict[str, float]:
        """Add the gradient of the loss over a global batch, whose denominators are counted first; returns metrics."""

    async def optim_step(self) -> dict[str, float]:
        """Clip the gradients, update the weights, advance the schedule, clear the gradients; returns metrics."""


class TrainedModel(Learner, Protocol):
    """A learner that can be saved."""

    async def save(self, path: Path, *, wait: bool = True) -> None:
        """Write weights and optimizer state below `path`; without `wait`, write a copy while training continues."""

    def wait_for_save(self) -> None:
        """Return when all saves are on the disk. Raises the error of a failed write."""

    async def load(self, path: Path) -> None:
        """Restore what `save` wrote, bit for bit."""


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters. Temperature 0 is greedy; top_k None, top_p 1, min_p 0 and repetition_penalty 1 are off."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    seed: int = 0
    min_p: float = 0.0
    """Tokens with less than this fraction of the most likely token's probability are not sampled."""
    repetition_penalty: float = 1.0
    """Logits of tokens in the prompt or the completion are divided by it if positive, otherwise multiplied."""
    min_new_tokens: int = 0
    """A completion does not end before it has this many tokens."""
    ignore_eos: bool = False
    """The model's own end-of-sequence tokens do not end a completion; stop_token_ids and stop_strings do."""


class Generator(Protocol):
    """A model that samples completions."""

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, count: int = 1
    ) -> list[list[Completion]]:
        """`count` completions of each prompt, in the order of the prompts."""


def sample_of(rollout: Rollout) -> Sample:
    """The training sample of a rollout: the tokens that the model sampled are the targets, exactly as generated."""
    prompt, completion = rollout.prompt.tokens, rollout.completion
    sampled_T = torch.tensor(completion.mask or (True,) * len(completion.tokens), dtype=torch.bool)
    logprobs_T = torch.tensor(completion.logprobs, dtype=torch.float32)
    return Sample(
        id=rollout.prompt.id,
        tokens_T=torch.tensor(prompt + completion.tokens, dtype=torch.long),
        loss_mask_T=torch.cat([torch.zeros(len(prompt), dtype=torch.bool), sampled_T]),
        group=rollout.prompt.id,
        prefix=len(prompt),
        versions=tuple(VersionSpan(v, len(prompt) + i, len(prompt) + j) for v, i, j in completion.versions),
        token_columns={"generation_logprobs": logprobs_T[sampled_T]},
    )
