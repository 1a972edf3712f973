"""Direct preference optimization (arXiv 2305.18290) and its relatives: a loss on pairs, or on rated answers.

    loss = preference_loss_weight * sum over losses k of w_k mean_k + sft_loss_weight * (-mean log pi(chosen))

Means are over the global batch. The losses are in `losses/preference_losses.py`. What they compare with the whole
batch (AOT's ranks, KTO's KL, BCO's running mean) is computed before the backward, so that micro-batches and ranks
change nothing (`losses/preference_objective.py`). The reference is the policy as the run began; its log-probabilities
are computed once (`reference_logprobs.py`).

Simplified away: divergences other than the reverse KL, weights by likelihood. BCO's mean is that of the steps before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hone.algorithms.losses.preference_losses import PreferenceLossParams
from hone.algorithms.losses.preference_objective import (
    PreferenceObjective,
    PreferenceTerms,
    with_batch_statistics,
)
from hone.algorithms.reference_logprobs import ReferenceLogprobs
from hone.algorithms.supervised import PairAlgorithm, evaluate_loss
from hone.config.schema.dpo import REFERENCE_FREE, DPOSection
from hone.data import build_preferences
from hone.errors import DataError
from hone.types import Learner, LogprobModel, Sample, TrainedModel

_CHUNK = 256
"""Held-out units whose reference log-probabilities are computed in one call."""


@dataclass
class Moments:
    """Running mean of the implicit rewards of all pairs so far: BCO's delta. A part of what resumes."""

    mean: float = 0.0
    count: float = 0.0

    def add(self, mean: float, count: float) -> None:
        """Add a batch."""
        self.count += count
        self.mean += (mean - self.mean) * count / max(self.count, 1.0)


def needs_reference(settings: DPOSection) -> bool:
    """Whether any loss compares with a reference."""
    return bool(settings.preference_loss_weight) and not settings.preference_loss.keys() <= REFERENCE_FREE


async def loss_of(
    model: LogprobModel,
    samples: Sequence[Sample],
    settings: DPOSection,
    *,
    paired: bool,
    moments: Moments,
    mismatched: Sequence[Sample] = (),
) -> PreferenceObjective:
    """The loss on a batch (see `with_batch_statistics`)."""
    params = PreferenceLossParams(
        beta=settings.reference_policy_kl_penalty,
        smoothing=settings.label_smoothing,
        gamma=0.5 if settings.simpo_gamma is None else settings.simpo_gamma,
        tau=settings.discopop_tau or 0.05,
        desirable=1.0 if settings.desirable_weight is None else settings.desirable_weight,
        undesirable=1.0 if settings.undesirable_weight is None else settings.undesirable_weight,
        delta=moments.mean,
    )
    terms = PreferenceTerms(
        settings.preference_loss,
        settings.preference_loss_weight,
        settings.preference_average_log_probs,
        settings.sft_loss_weight,
        settings.sft_average_log_probs,
    )
    return await with_batch_statistics(PreferenceObjective(terms, params, paired), model, samples, mismatched)


async def step(
    learner: Learner, samples: Sequence[Sample], loss: PreferenceObjective, moments: Moments
) -> dict[str, float]:
    """One optimizer step on one global batch."""
    metrics = await learner.forward_backward(samples, loss)
    if "bco_pair" in loss.terms.preference_loss:
        moments.add((metrics["rewards_chosen"] + metrics["rewards_rejected"]) / 2, float(len(samples)))
        metrics["bco_delta"] = loss.params.delta
    if "kto" in loss.terms.preference_loss:
        metrics["kto_kl"] = loss.params.kl
    return metrics | await learner.optim_step()


class DPO(PairAlgorithm):
    """Comparisons, their reference log-probabilities, and a loss on both."""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        super().__init__(config, build_preferences(config, tokenizer))
        self.settings = config.dpo
        self.moments = Moments()
        self.uses_reference_model = needs_reference(self.settings)
        self.mismatches = "kto" in self.settings.preference_loss
        if not self.data.paired and (losses := sorted(self.settings.preference_loss.keys() - {"kto"})):
            raise DataError(
                f"dpo.preference_loss={', '.join(losses)} compares two answers, but the rows have one each, with a "
                "'label': set dpo.preference_loss=kto"
            )
        policy = config.policy
        self.reference = ReferenceLogprobs(
            Path(config.checkpointing.checkpoint_dir),
            {
                "model": [
                    policy.model_name,
                    policy.hf_config_overrides,
                    config.algorithm.seed,
                    policy.precision,
                ],
                "tokenizer": policy.tokenizer.model_dump(),
            },
        )

    async def prepare(self, learner: TrainedModel, draws: int) -> None:
        """Compute the reference's log-probabilities of all answers of the run, unless they are known."""
        if self.uses_reference_model:
            self.reference.read()
            held_out = len(self.data.validation) // (2 if self.data.paired else 1)
            units = min(draws, self.data.num_rows) + held_out
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
        return await step(learner, samples, loss, self.moments)

    async def measure(self, learner: TrainedModel, samples: Sequence[Sample]) -> dict[str, float]:
        """The loss of held-out comparisons and its metrics, without a step."""
        loss = await self._loss(learner, samples)
        return evaluate_loss(loss, samples, await learner.forward(samples))

    async def _loss(self, learner: TrainedModel, samples: Sequence[Sample]) -> PreferenceObjective:
        mismatched = self.data.mismatched(samples) if self.mismatches else []
        if self.uses_reference_model:
            self.reference.attach([*samples, *mismatched])
        return await loss_of(
            learner,
            samples,
            self.settings,
            paired=self.data.paired,
            moments=self.moments,
            mismatched=mismatched,
        )

    def notes(self) -> list[str]:
        single = "kto" in self.settings.preference_loss and not self.data.paired
        return [*super().notes(), *(self._balance() if single else ())]

    def _balance(self) -> list[str]:
        """Notices on KTO's class balance: desirable_weight · desirable / (undesirable_weight · undesirable) is best
        between 1 and 4/3 (arXiv 2402.01306 eq. 8)."""
        good, bad = (self.data.counts[name] for name in ("desirable", "undesirable"))
        if not good or not bad:
            return [
                f"kto: all {good + bad} answers are {'desirable' if good else 'undesirable'}, and nothing says what is "
                f"{'worse' if good else 'better'}: add rows with label {'false' if good else 'true'}"
            ]
        given = (self.settings.desirable_weight, self.settings.undesirable_weight)
        weights = [1.0 if weight is None else weight for weight in given]
        if not bad * weights[1] <= good * weights[0] <= 4 / 3 * bad * weights[1] and all(weights):
            return [
                f"kto: {good} answers are desirable and {bad} are not, with weights {weights[0]:g} and {weights[1]:g}; "
                f"arXiv 2402.01306 recommends dpo.desirable_weight between {bad * weights[1] / good:.3g} and "
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
