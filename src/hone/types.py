"""The data that flows one way: Prompt -> Completion -> Rollout -> Group -> Sample -> Batch -> loss.

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
    """What a reward function gets in `prompts`: text, or messages for conversational data."""
    row: Mapping[str, Any] = field(default_factory=dict)
    """All columns of the dataset row; reward functions receive them as keyword arguments."""
    dataset: str = ""
    env: str = ""
    number: int = 0
    """Of its first completion: what is sampled depends on the prompt's id and the completion's number."""


class VersionSpan(NamedTuple):
    """Tokens [start, end) were sampled from the weights of `version`."""

    version: int
    start: int
    end: int


@dataclass(frozen=True)
class Completion:
    """What the generator produced, token by token; never decoded and re-encoded on its way to the loss."""

    tokens: tuple[int, ...]
    """Includes the end-of-sequence token where one was sampled."""
    logprobs: tuple[float, ...]
    """Log-probability of each token under the sampling distribution's untruncated softmax at its temperature."""
    finish: Literal["stop", "length", "turns"]
    """`length`: cut off by a limit of tokens; `turns`: its environment would have gone on."""
    versions: tuple[VersionSpan, ...]
    """Which weights sampled which tokens, in order."""
    mask: tuple[bool, ...] | None = None
    """False where an environment wrote the token (its log-probability is 0), which is not trained on; None: nowhere."""

    @classmethod
    def of_version(
        cls,
        tokens: tuple[int, ...],
        logprobs: tuple[float, ...],
        finish: Literal["stop", "length", "turns"],
        version: int,
        mask: tuple[bool, ...] | None = None,
    ) -> Completion:
        """A completion that weights of one version sampled."""
        return cls(tokens, logprobs, finish, (VersionSpan(version, 0, len(tokens)),), mask)

    @property
    def version(self) -> int:
        """Of the oldest weights that sampled any of it; 0 where nothing was sampled."""
        return min((span.version for span in self.versions), default=0)

    @property
    def num_sampled(self) -> int:
        return len(self.tokens) if self.mask is None else sum(self.mask)


@dataclass
class Rollout:
    """A completion with its scores. `reward is None` means that it failed, with `failure` as the cause."""

    prompt: Prompt
    completion: Completion
    text: str
    messages: list[Message] | None = None
    """Everything after the prompt, if that is more than one answer: reward functions get these."""
    rewards: dict[str, float | None] = field(default_factory=dict)  # None: it does not apply
    weights: dict[str, float] = field(default_factory=dict)
    """Factor of each of `rewards` in `reward`, at the time of scoring."""
    judge: str | None = None
    """Which of `rewards` judges whether the answer is right; None: the first; empty: none."""
    reward: float | None = None  # weighted sum of `rewards`
    extra: dict[str, Any] = field(default_factory=dict)
    """What reward functions logged (`log_extra`), by column."""
    failure: str | None = None
    advantage: float | None = None
    stats: dict[str, float] = field(default_factory=dict)
    """Counts of its environment: turns, tool calls, seconds …"""
    excluded: str | None = None
    """Why the rollout is not trained on (e.g. 'truncated'); counted in the metrics."""

    @property
    def judgement(self) -> float | None:
        """The reward that judges whether the answer is right, if there is one."""
        return self.rewards.get(next(iter(self.rewards), "") if self.judge is None else self.judge)

    @property
    def right(self) -> bool:
        """Whether its answer counts as right: a judgement of 1, or, if that is none of 1, 0, -1, a reward above 0."""
        verdict = self.judgement if self.judgement in (-1.0, 0.0, 1.0) else self.reward
        return verdict is not None and verdict > 0

    prefill: str = ""
    """The beginning of the answer at the end of the prompt, such as a template's `<think>`."""


@dataclass
class Group:
    """All rollouts of one prompt draw."""

    id: str
    rollouts: list[Rollout]


@dataclass
class Sample:
    """One sequence to train on or to score. `loss_mask_T[t]`: token t is a target; token 0 cannot be one.

    `token_columns` hold a value, or a row of them, for each *target* token, in order; `sequence_columns` one in all.
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
    micro-batches count units; a sample without a name for it is a unit of its own."""
    versions: tuple[VersionSpan, ...] = ()
    """Which weights sampled which of `tokens_T`; empty: not sampled."""

    def __len__(self) -> int:
        return int(self.tokens_T.numel())

    @property
    def num_targets(self) -> int:
        return int(self.loss_mask_T.sum())

    def is_sampled_from(self, version: int) -> bool:
        """Whether weights of this version sampled all of it."""
        return {span.version for span in self.versions} == {version}


@dataclass
class Batch:
    """The target tokens of S sequences laid end to end, as a loss sees them: no padding, no packing, no rank.

    A rank without work sees a unit without targets whose sequence columns are all 0: it adds 0 to every sum.
    """

    ids: list[str]
    tokens_N: Tensor
    sequence_N: Tensor
    """Which sequence, in [0, S), each target belongs to."""
    lengths_S: Tensor
    """Number of targets of each sequence."""
    token_columns: dict[str, Tensor] = field(default_factory=dict)
    sequence_columns: dict[str, Tensor] = field(default_factory=dict)

    @property
    def num_sequences(self) -> int:
        return len(self.ids)

    def sum_by_sequence(self, values_N: Tensor) -> Tensor:
        """Sum a per-target value within each sequence: [N] -> [S]."""
        return values_N.new_zeros(self.num_sequences).index_add(0, self.sequence_N, values_N)

    def mean_by_sequence(self, values_N: Tensor) -> Tensor:
        """Mean of a per-target value within each sequence: [N] -> [S]; 0 for a sequence without targets."""
        return self.sum_by_sequence(values_N) / self.lengths_S.clamp(min=1).to(values_N.dtype)

    def per_token(self, values_S: Tensor) -> Tensor:
        """Give each target its sequence's value: [S] -> [N]."""
        return values_S[self.sequence_N]


@dataclass(frozen=True)
class Totals:
    """Denominators of a loss, counted over the whole global batch before any backward."""

    tokens: float  # targets
    sequences: float  # that have a target
    sums: Mapping[str, float] = field(default_factory=dict)
    """Sum of each sequence column: a loss that weighs sequences divides by the sum of their weights."""


@dataclass
class Outputs:
    """The model's outputs for the targets of a Batch, in fp32.

    A model with a scalar head gives values, each of the state before its target; its `logprobs_N` are nan, so that a
    loss made for a language model stops the run.
    """

    logprobs_N: Tensor
    entropy_N: Tensor | None = None
    """Of the distribution of each target, with gradient; given where the loss has `needs_entropy`."""
    candidate_logprobs_NK: Tensor | None = None
    """Of the K tokens that the token column `candidates` [N, K] names at each target."""
    values_N: Tensor | None = None


@dataclass
class LossOutput:
    """`loss` is this batch's part of the global loss, already divided by the global denominator.

    Metrics of all batches are added up; of `largest`, the largest of all batches is reported.
    """

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    largest: dict[str, Tensor] = field(default_factory=dict)


LossFn = Callable[[Outputs, Batch, Totals], LossOutput]
"""Must be picklable: it travels to workers. A loss with an attribute `needs_entropy` that is true gets entropies."""


class Scorer(Protocol):
    """A model that gives log-probabilities, or values."""

    async def forward(self, samples: Sequence[Sample]) -> list[Tensor]:
        """Log-probabilities (from a scalar head: values) of each sample's targets: one fp32 tensor [targets] each."""


class Teacher(Protocol):
    """A frozen model queried for its top-k log-probabilities."""

    async def topk_logprobs(self, samples: Sequence[Sample], k: int) -> list[tuple[Tensor, Tensor]]:
        """The `k` most likely tokens at each target, most likely first: (log-probabilities, tokens), both [targets, k],
        for each sample."""


class Learner(Scorer, Protocol):
    """A model that is trained."""

    async def entropies(self, samples: Sequence[Sample]) -> list[Tensor]:
        """Entropy at each of a sample's targets, in nats, without gradient: one fp32 tensor [targets] each."""

    async def forward_backward(self, samples: Sequence[Sample], loss: LossFn) -> dict[str, float]:
        """Add the gradient of the loss over a global batch; its denominators are counted before any backward."""

    async def optim_step(self) -> dict[str, float]:
        """Clip, update, advance the schedule, clear the gradients."""


class TrainedModel(Learner, Protocol):
    """A learner that can be saved."""

    async def save(self, path: Path, *, wait: bool = True) -> None:
        """Write weights and optimizer state below `path`; without `wait`, a copy of them while training goes on."""

    def wait_for_save(self) -> None:
        """Return when everything that was saved is on the disk. Raises the error of a failed write."""

    async def load(self, path: Path) -> None:
        """Restore what `save` wrote, bit for bit."""


@dataclass(frozen=True)
class Sampling:
    """How to sample. temperature 0 is greedy. top_k None, top_p 1.0, min_p 0.0 and repetition_penalty 1.0 are off."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    seed: int = 0
    min_p: float = 0.0
    """Tokens with less than this fraction of the most likely token's probability are left out."""
    repetition_penalty: float = 1.0
    """Logits of tokens that the prompt or the completion has are divided by it, where positive, else multiplied."""
    min_new_tokens: int = 0
    """Nothing ends a completion before it has so many tokens."""
    ignore_eos: bool = False
    """The model's own end-of-sequence tokens do not end a completion; stop_token_ids and stop_strings do."""


class Generator(Protocol):
    """Anything that samples."""

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, count: int = 1
    ) -> list[list[Completion]]:
        """`count` completions of each prompt, in order."""


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
