"""The learner in this process: a model that is trained, or one that only scores.

A Ray worker runs this same class: there is no second implementation of training. On a mesh every rank calls the same
method with the same arguments, computes its share, and gets the same result.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hone.config.schema import ModelConfig
from hone.engine.distributed.collectives import RankGroup
from hone.engine.distributed.heartbeat import beat
from hone.engine.local import learner_state
from hone.engine.local.adalora import RankSchedule
from hone.engine.local.batching import MicroBatch, Rows, collate, count_totals, dummy_samples, plan_per_rank
from hone.engine.local.learner_checks import balance_of, check_one_piece, check_packing
from hone.engine.local.metric_sums import MetricSums
from hone.engine.local.optimizer import build_optimizer, build_scheduler, clip_gradients
from hone.engine.local.weight_sync import LearnerWeights
from hone.errors import ModelError, TrainingError
from hone.model import dropout
from hone.model.adapters import base_of
from hone.model.balancing import recorded_router_logits
from hone.model.loading import name_of
from hone.model.parallelize import reshard
from hone.model.scorer import ScoreRequest, ScoreResult, TokenScorer, present
from hone.types import LossFn, Outputs, Sample

REMEDY = "Look at its weights, or choose another precision (float16 overflows where bfloat16 does not)"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(device_type: str, dtype: torch.dtype) -> contextlib.AbstractContextManager[None]:
    """The autocast context for `dtype`."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    # A cache of casts would keep a second copy of every weight, although each weight is cast only once in a forward.
    return torch.autocast(device_type, dtype=dtype, cache_enabled=False)


class LocalLearner:
    """A model and, unless it is `frozen`, its optimizer, schedule and loss scale.

    Weights are in fp32; `policy.precision` is the precision of computation (autocast), and fp16 scales the loss.
    `temperature` divides the logits, so that log-probabilities are those of the sampling distribution. Dropout, if any,
    is drawn for each sample with `seed`. With `scores_as_trained`, scoring without a gradient applies the same dropout,
    so that old and reference log-probabilities are comparable with new ones.
    """

    def __init__(
        self,
        model: PreTrainedModel | TokenScorer,
        policy: ModelConfig,
        *,
        pad_token: int,
        temperature: float = 1.0,
        frozen: bool = False,
        save_optimizer: bool = True,
        seed: int = 0,
        scores_as_trained: bool = False,
    ) -> None:
        if not isinstance(model, TokenScorer):
            model = TokenScorer(model, temperature=temperature, chunk_rows=policy.logprob_chunk_size)
        self.scorer, self.model, self.policy, self.pad_token = model, model.model, policy, pad_token
        self.ranks = RankGroup(model.mesh)
        self.device = self.scorer.device
        self.dtype = DTYPES[policy.precision]
        check_packing(self.scorer, policy)
        if (
            self.scorer.scalar
        ):  # `transformers` finds the end of a text by this token; it is saved with the model
            self.model.config.get_text_config().pad_token_id = pad_token
        self.seed = seed if dropout.is_on(self.model) else None
        if self.seed is not None:
            check_one_piece(
                self.ranks.mesh, f"{policy.part}.disable_dropout=false", "true, and lora.dropout to 0"
            )
        self.scores_as_trained = scores_as_trained and self.seed is not None
        self.updates = 0
        self._saving: Future[None] | None = None
        self.frozen = frozen
        self.save_optimizer = save_optimizer and not frozen
        if frozen:
            self.model.requires_grad_(False).eval()
            return
        self.model.train()
        self.balance = balance_of(self.scorer, policy)
        self.rank_schedule = RankSchedule.of(self.model)
        self.optimizer = build_optimizer(policy, self.model.parameters())
        self.scheduler = build_scheduler(policy, self.optimizer)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=policy.precision == "float16")

    async def forward(self, samples: Sequence[Sample]) -> list[Tensor]:
        """Log-probabilities (or values) of the targets: one fp32 CPU tensor [targets] for each sample.

        Raises ModelError if the logits are not finite.
        """
        return self._of_all(samples, self._logprobs_or_values)

    def _logprobs_or_values(self, micro: MicroBatch) -> Tensor:
        result = self._score(micro)
        return present(result.values_N if self.scorer.scalar else result.logprobs_N)

    async def topk_logprobs(self, samples: Sequence[Sample], k: int) -> list[tuple[Tensor, Tensor]]:
        """The `k` most likely tokens at each target, most likely first: (log-probabilities, token ids), both
        [targets, k], for each sample."""

        def read(micro: MicroBatch) -> Tensor:
            result = self._score(micro, topk=k)
            # fp32 represents token ids exactly: integers below 2^24.
            return torch.cat([present(result.topk_logprobs_NK), present(result.topk_tokens_NK).float()], 1)

        return [(both[:, :k], both[:, k:].long()) for both in self._of_all(samples, read, 2 * k)]

    async def entropies(self, samples: Sequence[Sample]) -> list[Tensor]:
        """Entropies at the targets in nats, without gradient: one fp32 CPU tensor [targets] for each sample."""
        return self._of_all(samples, lambda micro: present(self._score(micro, entropy=True).entropy_N))

    def _of_all(
        self, samples: Sequence[Sample], read: Callable[[MicroBatch], Tensor], *width: int
    ) -> list[Tensor]:
        """The values that `read` returns at each sample's targets, without gradient: CPU tensors [targets, *width]."""
        counts = [sample.num_targets for sample in samples]
        if not counts:
            return []
        starts = list(accumulate(counts, initial=0))
        values_N = torch.zeros(starts[-1], *width, device=self.device)
        with torch.no_grad(), self._evaluating(training=self.scores_as_trained):
            for rows in self._share(samples, training=False):
                beat()
                micro = self._collate(samples, rows)
                parts = read(micro).split(micro.batch.lengths_S.tolist())
                for index, part in zip((i for row in rows for i in row), parts, strict=bool(rows)):
                    values_N[starts[index] : starts[index + 1]] = part
        found = list(self.ranks.all_reduce_sum(values_N).cpu().split(counts))
        bad = [sample.id for sample, read_T in zip(samples, found, strict=True) if read_T.isnan().any()]
        if bad and not self.scorer.scalar:
            raise ModelError(
                f"{self._named} has logits that are not finite, in samples {', '.join(bad[:4])}. {REMEDY}"
            )
        return found

    @property
    def _named(self) -> str:
        return f"{name_of(base_of(self.model))}, computed in {self.policy.part}.precision={self.policy.precision},"

    async def forward_backward(self, samples: Sequence[Sample], loss: LossFn) -> dict[str, float]:
        """Add the gradient of the global batch's loss. Returns metrics, summed over all micro-batches.

        Raises TrainingError, before any weight changes, if the loss is not finite.
        """
        totals, sums, balance = count_totals(samples), MetricSums(), self.balance
        counts = self._count_choices(samples) if balance is not None else None
        for rows in self._share(samples, training=True):
            beat()
            micro = self._collate(samples, rows)
            with recorded_router_logits(balance) as router_logits:
                outputs = self._outputs(micro, loss)
            result = loss(outputs, micro.batch, totals)
            minimised = result.loss
            if balance is not None and counts is not None:
                unbalanced = balance.part(router_logits, micro.copies.flatten() * bool(rows), counts)
                result.metrics["router_aux_loss"] = unbalanced.detach()
                minimised = minimised + balance.coefficient * unbalanced
            self.scaler.scale(minimised).backward()
            sums.add(result, micro.batch.ids)
        metrics = sums.metrics(self.ranks)
        if not all(math.isfinite(metrics.get(name, 0.0)) for name in ("loss", "router_aux_loss")):
            self._refuse(metrics["loss"], sums)
        return metrics

    @torch.no_grad()
    def _count_choices(self, samples: Sequence[Sample]) -> Tensor:
        """The number of times that the routers choose each expert in a global batch, by a separate forward."""
        balance = self.balance
        assert balance is not None
        counts = torch.zeros(balance.experts + 1, dtype=torch.float64, device=self.device)
        for rows in self._share(samples, training=True):
            micro = self._collate(samples, rows)
            with recorded_router_logits(balance) as router_logits:
                self._score(micro)
            counts += balance.counts(router_logits, micro.copies.flatten() * bool(rows))
        return self.ranks.all_reduce_sum(counts)

    def _refuse(self, loss: float, sums: MetricSums) -> NoReturn:
        """Clear the gradients, and raise TrainingError naming samples whose loss is not finite. All ranks call this."""
        self.optimizer.zero_grad(set_to_none=True)
        bad = self.ranks.all_gather_objects(sums.not_finite())
        where = f", in samples {', '.join(list(dict.fromkeys(chain(*bad)))[:4])}" if bad else ""
        raise TrainingError(
            f"loss is {loss} at update {self.updates + 1}{where}, of {self._named} and nothing was updated. Lower "
            f"{self.policy.part}.optimizer.kwargs.lr, or check these samples and the precision"
        )

    async def optim_step(self) -> dict[str, float]:
        """Clip the gradients, update the weights, advance the schedule, clear the gradients.

        Raises TrainingError if the gradient's norm is not finite. In fp16 the step is skipped and the loss scale is
        lowered instead, until the scale is 1.
        """
        self.scaler.unscale_(self.optimizer)
        penalty = self.rank_schedule.penalize() if self.rank_schedule is not None else 0.0
        norm = clip_gradients(self.model.parameters(), self.policy.max_grad_norm)
        if not torch.isfinite(norm) and (not self.scaler.is_enabled() or self.scaler.get_scale() <= 1):
            self.optimizer.zero_grad(set_to_none=True)
            raise TrainingError(
                f"gradient norm is {norm.item()} at update {self.updates + 1}: nothing was updated. "
                f"Lower {self.policy.part}.optimizer.kwargs.lr"
            )
        rate = self.optimizer.param_groups[0]["lr"]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.updates += 1
        metrics = {"grad_norm": float(norm), "learning_rate": float(rate)}
        if self.rank_schedule is not None and torch.isfinite(norm):  # else fp16 skipped the step
            metrics["adapter_rank"] = self.rank_schedule.advance(self.updates)
            metrics["orthogonality_loss"] = penalty
        self.optimizer.zero_grad(set_to_none=True)
        if self.scheduler is not None:
            self.scheduler.step()
        return metrics | ({"loss_scale": self.scaler.get_scale()} if self.scaler.is_enabled() else {})

    def weights(self) -> LearnerWeights:
        """Name and tensor of every weight, tied ones once. On a mesh every rank must iterate over them."""
        return LearnerWeights(self.model, self.ranks)

    async def save(self, path: Path, *, wait: bool = True) -> None:
        """Write `weights/` and, if `save_optimizer` is set, `optimizer/` below `path`; without `wait`, on a thread."""
        self._saving = learner_state.save(self, path, with_optimizer=self.save_optimizer, wait=wait)

    def wait_for_save(self) -> None:
        """Return when the last save is on the disk. Raises the error of a failed write."""
        if self._saving is not None:
            self._saving.result()

    async def load(self, path: Path) -> None:
        """Restore the state that `save` wrote. Raises CheckpointError if it does not fit this model."""
        learner_state.load(self, path, with_optimizer=not self.frozen)

    def _share(self, samples: Sequence[Sample], *, training: bool) -> list[Rows]:
        """This rank's micro-batches of a global batch."""
        plans = plan_per_rank(
            samples, self.policy, self.ranks.size, training=training, share=self._uses_shared_prefix(samples)
        )
        return plans[self.ranks.rank]

    def _uses_shared_prefix(self, samples: Sequence[Sample]) -> bool:
        """Whether samples of a row share their prompt. Packed rows never do."""
        wanted = not self.policy.sequence_packing.enabled and any(sample.prefix for sample in samples)
        return wanted and self.scorer.supports_shared_prefix

    def _collate(self, samples: Sequence[Sample], rows: Rows) -> MicroBatch:
        dynamic = self.policy.dynamic_batching
        return collate(
            [[samples[index] for index in row] for row in rows]
            or [[sample] for sample in dummy_samples(samples)],
            pad=self.pad_token,
            device=self.device,
            share=self._uses_shared_prefix(samples),
            seed=self.seed if self.model.training else None,
            round_to=math.lcm(self.scorer.divides, dynamic.sequence_length_round if dynamic.enabled else 1),
        )

    def _outputs(self, micro: MicroBatch, loss: LossFn) -> Outputs:
        """The inputs of a loss: log-probabilities, with those of candidates or entropies; or a scalar head's values."""
        candidates = micro.batch.token_columns.get("candidates")
        entropy = candidates is None and getattr(loss, "needs_entropy", False)
        result = self._score(micro, candidates_NK=candidates, entropy=entropy)
        if result.values_N is not None:
            return Outputs(logprobs_N=result.values_N * math.nan, values_N=result.values_N)
        return Outputs(present(result.logprobs_N), result.entropy_N, result.candidate_logprobs_NK)

    def _score(self, micro: MicroBatch, **further: Any) -> ScoreResult:
        """Log-probabilities of a micro-batch's targets, or values; `further` are other fields of the ScoreRequest."""
        with self.autocast(), dropout.of_samples(micro.keys):
            return self.scorer(
                ScoreRequest(
                    input_ids=micro.input_ids,
                    positions_N=micro.positions_N,
                    targets_N=micro.batch.tokens_N,
                    position_ids=micro.position_ids,
                    attention_mask=micro.attention_mask,
                    **further,
                )
            )

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """The context that computes in `policy.precision`."""
        return autocast(self.device.type, self.dtype)

    @contextlib.contextmanager
    def _evaluating(self, *, training: bool) -> Iterator[None]:
        """Set the model to training mode (with the samples' dropout) or to evaluation mode during the block."""
        previous = self.model.training
        self.model.train(training)
        try:
            yield
        finally:
            self.model.train(previous)
            if self.ranks.mesh is not None:
                reshard(self.scorer)
