"""Direct preference optimization (arXiv 2305.18290) and its relatives: a loss on pairs, or on rated answers.

    loss = preference_loss_weight * sum over losses k of w_k mean_k + sft_loss_weight * (-mean log pi(chosen))

Means are over the global batch. The losses are in `losses/preference_losses.py`; what they compare with the whole batch (AOT's
ranks, KTO's KL, BCO's running mean) is worked out before the backward, so that how it is divided changes nothing.

Simplified away: no divergences but the reverse KL, no weights by likelihood. BCO's mean is that of the steps before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hone.algorithms.losses import preference_losses
from hone.algorithms.losses.preference_losses import PAIRWISE
from hone.algorithms.losses.preference_params import Pairs, PreferenceLossParams
from hone.config.checks.preferences import REFERENCE_FREE
from hone.config.schema import DPOSection
from hone.types import Batch, Learner, LossOutput, Outputs, Sample, Scorer, Totals


@dataclass
class Moments:
    """Running mean of the implicit rewards of all pairs so far: BCO's delta. A part of what resumes."""

    mean: float = 0.0
    count: float = 0.0

    def add(self, mean: float, count: float) -> None:
        """Take a batch in."""
        self.count += count
        self.mean += (mean - self.mean) * count / max(self.count, 1.0)


def needs_reference(settings: DPOSection) -> bool:
    """Whether any loss compares with a reference."""
    return bool(settings.preference_loss_weight) and not settings.preference_loss.keys() <= REFERENCE_FREE


def needs_pairs(settings: DPOSection) -> list[str]:
    """The losses that cannot learn from rated answers."""
    return sorted(settings.preference_loss.keys() - {"kto"})


@dataclass(frozen=True)
class DPOLoss:
    """All terms of the loss. Picklable. Reads the columns `label` (1 chosen, -1 rejected), `reference` (the reference's
    sum of log-probabilities; absent for losses without), and for AOT `aot` and `aot_unpaired`."""

    settings: DPOSection
    params: PreferenceLossParams = field(default_factory=PreferenceLossParams)
    paired: bool = True

    def __call__(self, outputs: Outputs, batch: Batch, totals: Totals) -> LossOutput:
        settings, columns, label_S = self.settings, batch.sequence_columns, batch.sequence_columns["label"]
        logps_S = batch.sum_by_sequence(outputs.logprobs_N)
        reference_S = columns.get("reference", torch.zeros_like(logps_S))
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
            pairs = pairs.mean() if settings.preference_average_log_probs else pairs
            partners = {
                name: (column[good], column[bad]) for name, column in columns.items() if name[:3] == "aot"
            }
            for name in sorted(settings.preference_loss.keys() - {"kto"}):
                losses[name] = self._pairwise(name, pairs, partners).sum() / chosen
        ratio_S = logps_S - reference_S
        if settings.preference_average_log_probs:
            ratio_S = ratio_S / length_S.clamp(min=1)
        if "kto" in settings.preference_loss:
            rated = good | bad
            each = preference_losses.kto(ratio_S[rated], good[rated], self.params)
            losses["kto"] = each.sum() / max(totals.sequences, 1.0)
        preference = sum(
            (w * losses[name] for name, w in settings.preference_loss.items()), logps_S.sum() * 0
        )
        nll_S = -logps_S / length_S.clamp(min=1) if settings.sft_average_log_probs else -logps_S
        sft = nll_S[good].sum() / chosen
        loss = settings.preference_loss_weight * preference + settings.sft_loss_weight * sft
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


async def loss_of(
    model: Scorer,
    samples: Sequence[Sample],
    settings: DPOSection,
    *,
    paired: bool,
    moments: Moments,
    mismatched: Sequence[Sample] = (),
) -> DPOLoss:
    """The loss on a batch, with what it compares with the whole of it: one forward more for AOT and KTO.

    `mismatched` are KTO's prompts with answers of others, with their `reference`.
    """
    params = PreferenceLossParams(
        beta=settings.reference_policy_kl_penalty,
        smoothing=settings.label_smoothing,
        gamma=0.5 if settings.simpo_gamma is None else settings.simpo_gamma,
        tau=settings.discopop_tau or 0.05,
        desirable=1.0 if settings.desirable_weight is None else settings.desirable_weight,
        undesirable=1.0 if settings.undesirable_weight is None else settings.undesirable_weight,
        delta=moments.mean,
    )
    if "kto" in settings.preference_loss and mismatched:
        ratios_S = await _ratios(model, mismatched, average=settings.preference_average_log_probs)
        params = replace(params, kl=max(0.0, float(ratios_S.mean())))
    if paired and {"aot", "aot_unpaired"} & settings.preference_loss.keys():
        await _match(model, samples, average=settings.preference_average_log_probs)
    return DPOLoss(settings, params, paired)


async def _ratios(model: Scorer, samples: Sequence[Sample], *, average: bool, policy: bool = False) -> Tensor:
    """log pi - log ref of each sample (fp64), or log pi alone."""
    values = []
    for sample, logprobs_T in zip(samples, await model.forward(samples), strict=True):
        value = float(logprobs_T.double().sum()) - (0.0 if policy else sample.sequence_columns["reference"])
        values.append(value / max(sample.num_targets, 1) if average else value)
    return torch.tensor(values, dtype=torch.float64)


async def _match(model: Scorer, samples: Sequence[Sample], *, average: bool) -> None:
    """Give each sample its AOT partners: numbers of the same rank in the whole batch."""
    ratios_S = await _ratios(model, samples, average=average)
    lengths_S = torch.tensor([max(sample.num_targets, 1) if average else 1 for sample in samples])
    reference_S = (
        torch.tensor([s.sequence_columns["reference"] for s in samples], dtype=torch.float64) / lengths_S
    )
    good, bad = ratios_S[::2], ratios_S[1::2]
    reference_P = reference_S[::2] - reference_S[1::2]
    aot_P = preference_losses.matched(good - bad + reference_P, reference_P)
    partners = (preference_losses.matched(good, bad), preference_losses.matched(bad, good))
    for index, sample in enumerate(samples):
        sample.sequence_columns["aot"] = float(aot_P[index // 2])
        sample.sequence_columns["aot_unpaired"] = float(partners[index % 2][index // 2])


async def step(
    learner: Learner, samples: Sequence[Sample], loss: DPOLoss, moments: Moments
) -> dict[str, float]:
    """One optimizer step on one global batch."""
    metrics = await learner.forward_backward(samples, loss)
    if "bco_pair" in loss.settings.preference_loss:
        moments.add((metrics["rewards_chosen"] + metrics["rewards_rejected"]) / 2, float(len(samples)))
        metrics["bco_delta"] = loss.params.delta
    if "kto" in loss.settings.preference_loss:
        metrics["kto_kl"] = loss.params.kl
    return metrics | await learner.optim_step()
