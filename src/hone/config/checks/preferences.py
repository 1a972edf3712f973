"""Settings of preference losses that cannot work together."""

from __future__ import annotations

from collections.abc import Iterator

from hone.config.schema import DPOConfig

REFERENCE_FREE = frozenset({"simpo", "orpo", "cpo"})
"""Losses that compare with no reference."""
ALWAYS_AVERAGED = frozenset({"ipo", "sigmoid_norm", "simpo", "orpo"})
"""Losses of the mean log-probability of an answer's tokens, whatever preference_average_log_probs says."""
WITH_SFT = frozenset({"orpo", "cpo"})
"""Losses that are the second half of one whose first is the likelihood of the chosen answer."""
READS: dict[str, frozenset[str]] = {
    "label_smoothing": frozenset(
        {"sigmoid", "sigmoid_norm", "robust", "exo_pair", "aot", "aot_unpaired", "simpo", "cpo"}
    ),
    "simpo_gamma": frozenset({"simpo"}),
    "discopop_tau": frozenset({"discopop"}),
    "desirable_weight": frozenset({"kto"}),
    "undesirable_weight": frozenset({"kto"}),
}
"""Which losses read a setting that not all do."""


def preferences(config: DPOConfig) -> Iterator[str]:
    """Everything that is wrong in the section `dpo`, as sentences."""
    dpo = config.dpo
    names = dpo.preference_loss.keys()
    shown = ", ".join(names)
    if not names:
        yield "dpo.preference_loss names no loss: set it to one, such as sigmoid"
        return
    if any(weight <= 0 for weight in dpo.preference_loss.values()):
        yield f"dpo.preference_loss={dict(dpo.preference_loss)}: weights are above 0; leave a loss out instead"
    if not dpo.preference_loss_weight and not dpo.sft_loss_weight:
        yield "dpo.preference_loss_weight and dpo.sft_loss_weight are both 0: there is nothing to learn from"
    for key, readers in READS.items():
        if getattr(dpo, key) is not None and not readers & names:
            yield (
                f"dpo.{key}={getattr(dpo, key)} does nothing for dpo.preference_loss={shown}: it is for "
                f"{', '.join(sorted(readers))}; set it to null"
            )
    if "exo_pair" in names and dpo.label_smoothing == 0:
        yield "dpo.label_smoothing=0 makes exo_pair infinite: set it above 0, or to null for 0.001"
    if dpo.preference_average_log_probs and names <= ALWAYS_AVERAGED:
        yield (
            f"dpo.preference_average_log_probs=true does nothing for dpo.preference_loss={shown}, which takes means "
            "always: set it to false"
        )
    for name in sorted(WITH_SFT & names):
        if not dpo.sft_loss_weight:
            yield (
                f"dpo.preference_loss={name} is an addition to the likelihood of the chosen answers, which "
                "dpo.sft_loss_weight=0 leaves out: set dpo.sft_loss_weight=1"
                + (" and dpo.sft_average_log_probs=true" if name == "orpo" else "")
            )


def dropout(config: DPOConfig) -> Iterator[str]:
    """Dropout in a policy that is compared with a reference, which has none."""
    if not config.policy.disable_dropout and config.dpo.preference_loss.keys() - REFERENCE_FREE:
        yield (
            "policy.disable_dropout=false: the reference's log-probabilities are computed once and without dropout, so "
            "that the policy's would not compare with them; set it to true, or dpo.preference_loss to one of "
            f"{', '.join(sorted(REFERENCE_FREE))}"
        )
