"""The objective on pairs or rated answers: a weighted sum of preference losses, and the likelihood of chosen answers.

    loss = preference_loss_weight * sum over losses k of w_k mean_k + sft_loss_weight * (-mean log pi(chosen))

Statistics of the whole global batch (AOT's ranks, KTO's KL) are computed before the backward by
`with_batch_statistics`. Shapes: `_S` answers, `_P` pairs, `_N` target tokens, `_T` targets of one answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from hone.algorithms.losses import preference_losses
from hone.algorithms.losses.preference_losses import PAIRWISE, Pairs, PreferenceLossParams
from hone.types import Batch, LogprobModel, LossOutput, Outputs, Sample, Totals


@dataclass(frozen=True)
class PreferenceTerms:
    """The terms of an objective and their weights."""

    preference_loss: Mapping[Any, float]
    """Losses by name, with their weights."""
    preference_loss_weight: float = 1.0
    preference_average_log_probs: bool = False
    """Compare means over an answer's tokens instead of sums."""
    sft_loss_weight: float = 0.0
    sft_average_log_probs: bool = False


@dataclass(frozen=True)
class PreferenceObjective:
    """All terms of the loss. Picklable. Reads the columns `label` (1 chosen, -1 rejected), `reference_logprob_sum`
    (absent for losses without a reference), and for AOT `aot` and `aot_unpaired`."""

    terms: PreferenceTerms
    params: PreferenceLossParams = field(default_factory=PreferenceLossParams)
    paired: bool = True

    def __call__(self, outputs: Outputs, batch: Batch, totals: Totals) -> LossOutput:
        terms, columns, label_S = self.terms, batch.sequence_columns, batch.sequence_columns["label"]
        logps_S = batch.sum_by_sequence(outputs.logprobs_N)
        reference_S = columns.get("reference_logprob_sum", torch.zeros_like(logps_S))
        length_S = batch.lengths_S
        good, bad = label_S > 0, label_S < 0  # neither: a rank without work
        chosen = max((totals.sequences + totals.sums["label"]) / 2, 1.0)
        rejected = max((totals.sequences - totals.sums["label"]) / 2, 1.0)
        losses: dict[str, Tensor] = {}
        if self.paired:
            pairs = Pairs(
                *(logps_S[good], logps_S[bad], reference_S[good], reference_S[bad]),
                *(length_S[good], length_S[bad]),
            )
            pairs = pairs.mean() if terms.preference_average_log_probs else pairs
            partners = {name: (c[good], c[bad]) for name, c in columns.items() if name.startswith("aot")}
            for name in sorted(terms.preference_loss.keys() - {"kto"}):
                losses[name] = self._pairwise(name, pairs, partners).sum() / chosen
        ratio_S = logps_S - reference_S
        if terms.preference_average_log_probs:
            ratio_S = ratio_S / length_S.clamp(min=1)
        if "kto" in terms.preference_loss:
            rated = good | bad
            each = preference_losses.kto(ratio_S[rated], good[rated], self.params)
            losses["kto"] = each.sum() / max(totals.sequences, 1.0)
        preference = sum((w * losses[name] for name, w in terms.preference_loss.items()), logps_S.sum() * 0)
        nll_S = -logps_S / length_S.clamp(min=1) if terms.sft_average_log_probs else -logps_S
        sft = nll_S[good].sum() / chosen
        loss = terms.preference_loss_weight * preference + terms.sft_loss_weight * sft
        rewards_S = self.params.beta * ratio_S.detach()
        metrics = {
            "preference_loss": preference.detach(),
            "sft_loss": sft.detach(),
            "rewards_chosen": rewards_S[good].sum() / chosen,
            "rewards_rejected": rewards_S[bad].sum() / rejected,
            "logps_chosen": logps_S.detach()[good].sum() / chosen,
            "logps_rejected": logps_S.detach()[bad].sum() / rejected,
        }
        if self.paired:
            gain_P = rewards_S[good] - rewards_S[bad]
            metrics["reward_margin"] = gain_P.sum() / chosen
            metrics["reward_accuracy"] = (gain_P > 0).float().sum() / chosen
        if len(losses) > 1:
            metrics |= {f"loss_{name}": value.detach() for name, value in losses.items()}
        return LossOutput(loss, metrics)

    def _pairwise(self, name: str, pairs: Pairs, partners: dict[str, tuple[Tensor, Tensor]]) -> Tensor:
        if name == "aot":
            return preference_losses.aot(pairs.chosen_P - pairs.rejected_P, partners["aot"][0], self.params)
        if name == "aot_unpaired":
            return preference_losses.aot_unpaired(pairs, *partners["aot_unpaired"], self.params)
        return PAIRWISE[name](pairs, self.params)


async def with_batch_statistics(
    objective: PreferenceObjective,
    model: LogprobModel,
    samples: Sequence[Sample],
    mismatched: Sequence[Sample] = (),
) -> PreferenceObjective:
    """The objective with its statistics of the whole batch: one more forward for AOT and KTO.

    `mismatched`: for KTO, prompts with the answers of other prompts, with their `reference_logprob_sum`.
    """
    losses = objective.terms.preference_loss.keys()
    average = objective.terms.preference_average_log_probs
    if "kto" in losses and mismatched:
        ratios_S = await _ratios(model, mismatched, average=average)
        params = replace(objective.params, kl=max(0.0, float(ratios_S.mean())))
        objective = replace(objective, params=params)
    if objective.paired and {"aot", "aot_unpaired"} & losses:
        await _match(model, samples, average=average)
    return objective


async def _ratios(model: LogprobModel, samples: Sequence[Sample], *, average: bool) -> Tensor:
    """log pi - log ref of each sample, in fp64."""
    values = []
    for sample, logprobs_T in zip(samples, await model.forward(samples), strict=True):
        value = float(logprobs_T.double().sum()) - sample.sequence_columns["reference_logprob_sum"]
        values.append(value / max(sample.num_targets, 1) if average else value)
    return torch.tensor(values, dtype=torch.float64)


async def _match(model: LogprobModel, samples: Sequence[Sample], *, average: bool) -> None:
    """Set each sample's AOT partners: values of the same rank in the whole batch."""
    ratios_S = await _ratios(model, samples, average=average)
    lengths_S = torch.tensor([max(sample.num_targets, 1) if average else 1 for sample in samples])
    references = [sample.sequence_columns["reference_logprob_sum"] for sample in samples]
    reference_S = torch.tensor(references, dtype=torch.float64) / lengths_S
    good, bad = ratios_S[::2], ratios_S[1::2]
    reference_P = reference_S[::2] - reference_S[1::2]
    aot_P = preference_losses.matched(good - bad + reference_P, reference_P)
    partners = (preference_losses.matched(good, bad), preference_losses.matched(bad, good))
    for index, sample in enumerate(samples):
        sample.sequence_columns["aot"] = float(aot_P[index // 2])
        sample.sequence_columns["aot_unpaired"] = float(partners[index % 2][index // 2])
