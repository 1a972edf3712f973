"""Distillation: the student learns the teacher's distribution over the next token, at every token of an answer.

    p = the teacher's distribution, q = the student's, over the teacher's top k                        `DistillLoss`
    forward  sum p (log p - log q)         Hinton et al. 2015, arXiv 1503.02531: q covers all that p does
    reverse  sum q (log q - log p)         MiniLLM, arXiv 2306.08543: q stays where p is
    mixed    w forward + (1 - w) reverse
    jsd      b KL(p || m) + (1 - b) KL(q || m), m = b p + (1 - b) q      GKD, arXiv 2306.13649 eq. 1; b 0 is the
             forward KL, b 1 the reverse one
    loss   = mean over the target tokens of the global batch

Logits of both are divided by a temperature first; the loss is not multiplied by its square, as Hinton's is. With k
the size of the vocabulary all of this is exact. With fewer, zero_outside_topk false makes p and q sum to 1 over the k
tokens; true keeps q, and p is 0 outside. The reverse KL then treats the probability that q has outside, r = 1 - sum
q, as if p were e^-100 for each of these tokens: sum q log q + 100 r. They count as one token here, r log r + 100 r,
which is more by at most r log(their number). The jsd is exact: -(1 - b) r log(1 - b).

GKD: answers are the student's own samples, or in a share of the steps the data's (distillation.on_policy_fraction).
Shapes: `_N` target tokens, `_NK` the teacher's top k at each of them, `_TK` the same for one sequence.

Simplified away: gradients through the sampling of answers (MiniLLM's policy gradient), an additional cross-entropy on
the data's tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hone.algorithms import minibatches
from hone.algorithms.online import Models, OnlineAlgorithm
from hone.config.schema.distill import DistillConfig, DistillLossConfig
from hone.types import Batch, Group, Learner, LossOutput, Outputs, Sample, Teacher, Totals, sample_of

OUTSIDE = 100.0
"""Minus the log-probability that the teacher is assumed to give each token outside its top k."""
LEAST = 1e-12
"""Least probability outside the top k: below it, 1 - (a sum of probabilities in fp32) is rounding."""


@dataclass(frozen=True)
class Compared:
    """Log-probabilities of both at the teacher's top k [N, K]; the student's probability outside of it [N], or None."""

    teacher_NK: Tensor
    student_NK: Tensor
    rest_N: Tensor | None = None


def compared(teacher_NK: Tensor, student_NK: Tensor, *, zero_outside_topk: bool) -> Compared:
    """Renormalise log-probabilities over the whole vocabulary for the comparison."""
    teacher_NK = teacher_NK.log_softmax(-1)
    if zero_outside_topk:
        rest_N = (1 - student_NK.exp().sum(-1)).clamp(min=LEAST)
        return Compared(teacher_NK, student_NK, rest_N)
    return Compared(teacher_NK, student_NK.log_softmax(-1))


def forward_kl(c: Compared) -> Tensor:
    """KL(teacher || student) at each target, [N]."""
    return _divergence(c.teacher_NK, c.student_NK)


def reverse_kl(c: Compared) -> Tensor:
    """KL(student || teacher) at each target, [N]."""
    inside_N = _divergence(c.student_NK, c.teacher_NK)
    return inside_N if c.rest_N is None else inside_N + c.rest_N * (c.rest_N.log() + OUTSIDE)


def jsd(c: Compared, beta: float) -> Tensor:
    """The generalised Jensen-Shannon divergence at each target, [N]."""
    if beta == 0:
        return forward_kl(c)
    if beta == 1:
        return reverse_kl(c)
    mixture_NK = torch.logaddexp(c.teacher_NK + math.log(beta), c.student_NK + math.log1p(-beta))
    teacher_N, student_N = _divergence(c.teacher_NK, mixture_NK), _divergence(c.student_NK, mixture_NK)
    if c.rest_N is not None:  # outside the top k the mixture has the student's part alone
        student_N = student_N - c.rest_N * math.log1p(-beta)
    return beta * teacher_N + (1 - beta) * student_N


def _divergence(one_NK: Tensor, other_NK: Tensor) -> Tensor:
    """sum of p (log p - log q); probabilities that have underflowed to 0 add nothing."""
    return (one_NK.exp() * (one_NK - other_NK)).sum(-1)


@dataclass(frozen=True)
class DistillLoss:
    """The divergence from the teacher. Picklable: its only state is the configuration.

    Reads the token columns `candidates` (the teacher's top k tokens) and `teacher_logprobs`, both [N, K].
    """

    config: DistillLossConfig

    def __call__(self, outputs: Outputs, batch: Batch, totals: Totals) -> LossOutput:
        config, student_NK = self.config, outputs.candidate_logprobs_NK
        assert student_NK is not None
        teacher_NK = batch.token_columns["teacher_logprobs"]
        c = compared(teacher_NK, student_NK, zero_outside_topk=config.zero_outside_topk)
        forward_N, reverse_N = forward_kl(c), reverse_kl(c)
        if config.kl_type == "jsd":
            loss_N = jsd(c, config.jsd_beta)
        else:
            weight = {"forward": 1.0, "reverse": 0.0, "mixed": config.mixed_kl_weight}[config.kl_type]
            loss_N = weight * forward_N + (1 - weight) * reverse_N
        tokens = max(totals.tokens, 1.0)
        parts = {
            "forward_kl": forward_N,
            "reverse_kl": reverse_N,
            "teacher_in_topk": teacher_NK.exp().sum(-1),
            "student_in_topk": student_NK.exp().sum(-1),
            "approx_entropy": -outputs.logprobs_N,
        }
        metrics = {name: part_N.detach().sum() / tokens for name, part_N in parts.items()}
        return LossOutput(loss_N.sum() / tokens, metrics)


def trainable_samples(groups: Sequence[Group]) -> list[Sample]:
    """A sample for each completion, except those that are excluded or empty."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    kept = [(i, r) for i, r in enumerate(rollouts) if r.excluded is None and r.completion.tokens]
    return [replace(sample_of(rollout), id=f"{rollout.prompt.id}#{index}") for index, rollout in kept]


async def teach(teacher: Teacher, samples: Sequence[Sample], k: int) -> None:
    """Give each sample the teacher's top k at its targets, as token columns."""
    found = await teacher.topk_logprobs(samples, k)
    for sample, (logprobs_TK, tokens_TK) in zip(samples, found, strict=True):
        sample.token_columns |= {"teacher_logprobs": logprobs_TK, "candidates": tokens_TK}


async def step(
    learner: Learner, teacher: Teacher, samples: Sequence[Sample], config: DistillConfig
) -> dict[str, float]:
    """An optimizer step for every global batch of the answers. Metrics are means over the steps.

    The teacher's log-probabilities, k for each target, are kept for one global batch at a time.
    """
    size, loss = config.policy.train_global_batch_size, DistillLoss(config.loss_fn)
    history: list[dict[str, float]] = []
    for start in range(0, len(samples), size):
        batch = list(samples[start : start + size])
        await teach(teacher, batch, config.distillation.topk_logits_k)
        history.append(await learner.forward_backward(batch, loss) | await learner.optim_step())
        for sample in batch:
            del sample.token_columns["candidates"], sample.token_columns["teacher_logprobs"]
    counts = {"updates": float(len(history)), "trained_samples": float(len(samples))}
    return minibatches.means(history) | counts


class Distill(OnlineAlgorithm):
    """A student and its teacher."""

    config: DistillConfig

    async def step(self, models: Models, groups: Sequence[Group], step_number: int) -> dict[str, float]:
        return await self.step_on_answers(models, trainable_samples(groups))

    async def step_on_answers(self, models: Models, samples: Sequence[Sample]) -> dict[str, float]:
        assert models.teacher is not None
        return await step(models.learner, models.teacher, samples, self.config)

    def is_on_policy_step(self, step_number: int) -> bool:
        return self.config.distillation.is_on_policy_step(step_number)

    def needs_answers(self) -> bool:
        return self.config.distillation.on_policy_fraction < 1
