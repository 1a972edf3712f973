"""DPO and its relatives in the supervised loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hone.algorithms import dpo
from hone.algorithms.dpo import DPOLoss, Moments
from hone.algorithms.reference_logprobs import ReferenceLogprobs
from hone.algorithms.supervised import SupervisedAlgorithm
from hone.data import PreferenceData, build_preferences
from hone.errors import DataError
from hone.types import Batch, Outputs, Sample, Totals, TrainedModel

_CHUNK = 256
"""Held-out units whose reference log-probabilities are computed in one call."""


class DPO(SupervisedAlgorithm):
    """Comparisons, their reference log-probabilities, and a loss on both."""

    data: PreferenceData

    def __init__(self, config: Any, tokenizer: Any) -> None:
        super().__init__(config, build_preferences(config, tokenizer))
        self.settings = config.dpo
        self.moments = Moments()
        self.uses_reference_model = dpo.needs_reference(self.settings)
        self.mismatches = "kto" in self.settings.preference_loss
        if not self.data.paired and (losses := dpo.needs_pairs(self.settings)):
            raise DataError(
                f"dpo.preference_loss={', '.join(losses)} compares two answers, but the rows have one each, with a "
                "'label': set dpo.preference_loss=kto"
            )
        policy = config.policy
        self.reference = ReferenceLogprobs(
            Path(config.checkpointing.checkpoint_dir),
            {
                "model": [policy.model_name, policy.hf_config_overrides, config.loop.seed, policy.precision],
                "tokenizer": policy.tokenizer.model_dump(),
            },
        )

    async def prepare(self, learner: TrainedModel, draws: int) -> None:
        """The reference's log-probabilities of all answers that the run will come to, unless they are known."""
        if self.uses_reference_model:
            self.reference.read()
            units = min(draws, self.data.num_rows) + len(self.data.validation) // (
                2 if self.data.paired else 1
            )
            await self.reference.compute(learner, self._all(draws), units)

    def _all(self, draws: int) -> Iterator[list[Sample]]:
        for samples in self.data.upcoming(draws):
            yield self._with_mismatched(samples)
        held_out = self._with_mismatched(self.held_out()) if self._validates() else []
        step = 2 * _CHUNK
        yield from (held_out[start : start + step] for start in range(0, len(held_out), step))

    def _with_mismatched(self, samples: list[Sample]) -> list[Sample]:
        return [*samples, *(self.data.mismatched(samples) if self.mismatches else ())]

    def _validates(self) -> bool:
        return bool(self.section.val_period or self.section.val_at_start or self.section.val_at_end)

    async def step(self, learner: TrainedModel, samples: Sequence[Sample]) -> dict[str, float]:
        loss = await self._loss(learner, samples)
        return await dpo.step(learner, samples, loss, self.moments)

    async def measure(self, learner: TrainedModel, samples: Sequence[Sample]) -> dict[str, float]:
        """The loss of the held-out comparisons and all that it reports, without a step."""
        loss = await self._loss(learner, samples)
        logprobs = await learner.forward(samples)
        lengths_S = torch.tensor([values.numel() for values in logprobs])
        batch = Batch(
            ids=[sample.id for sample in samples],
            tokens_N=torch.cat([sample.tokens_T[sample.loss_mask_T] for sample in samples]),
            sequence_N=torch.repeat_interleave(torch.arange(len(samples)), lengths_S),
            lengths_S=lengths_S,
            sequence_columns={
                name: torch.tensor([sample.sequence_columns[name] for sample in samples])
                for name in samples[0].sequence_columns
            },
        )
        labels = float(batch.sequence_columns["label"].sum())
        totals = Totals(float(lengths_S.sum()), float(len(samples)), {"label": labels})
        result = loss(Outputs(torch.cat(logprobs)), batch, totals)
        return {"loss": float(result.loss), **{name: float(value) for name, value in result.metrics.items()}}

    async def _loss(self, learner: TrainedModel, samples: Sequence[Sample]) -> DPOLoss:
        mismatched = self.data.mismatched(samples) if self.mismatches else []
        if self.uses_reference_model:
            self.reference.attach([*samples, *mismatched])
        return await dpo.loss_of(
            learner,
            samples,
            self.settings,
            paired=self.data.paired,
            moments=self.moments,
            mismatched=mismatched,
        )

    def describe(self, metrics: dict[str, float], samples: Sequence[Sample]) -> dict[str, float]:
        return super().describe(metrics, samples) | {"units": float(len({sample.unit for sample in samples}))}

    def left_out(self) -> str:
        return self.data.excluded_notice()

    def notes(self) -> list[str]:
        single = "kto" in self.settings.preference_loss and not self.data.paired
        return [*super().notes(), *(self._balance() if single else ())]

    def _balance(self) -> list[str]:
        """What KTO is told of how many answers are good and bad: desirable_weight · desirable / (undesirable_weight ·
        undesirable) is best between 1 and 4/3 (arXiv 2402.01306 eq. 8)."""
        good, bad = (self.data.counts[name] for name in ("desirable", "undesirable"))
        if not good or not bad:
            return [
                f"kto: all {good + bad} answers are {'desirable' if good else 'undesirable'}, and nothing says what is "
                f"{'worse' if good else 'better'}: add rows with label {'false' if good else 'true'}"
            ]
        weights = [
            1.0 if weight is None else weight
            for weight in (self.settings.desirable_weight, self.settings.undesirable_weight)
        ]
        if not bad * weights[1] <= good * weights[0] <= 4 / 3 * bad * weights[1] and all(weights):
            return [
                f"kto: {good} answers are desirable and {bad} are not, with weights {weights[0]:g} and {weights[1]:g}; "
                f"arXiv 2402.01306 wants dpo.desirable_weight between {bad * weights[1] / good:.3g} and "
                f"{4 / 3 * bad * weights[1] / good:.3g}"
            ]
        return []

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict() | {"moments": asdict(self.moments)}
        return state | ({"reference": self.reference.state_dict()} if self.uses_reference_model else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.moments = Moments(**state["moments"])
        if "reference" in state:
            self.reference.load_state_dict(state["reference"])
