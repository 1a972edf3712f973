"""The configuration of `hone dpo`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field

from hone.config.dependent_defaults.settings import Adjustment, Settings
from hone.config.schema.base import Derived, derived, section
from hone.config.schema.data import PreferenceDataConfig
from hone.config.schema.pair_settings import PairPolicyConfig, PreferenceCheckpointingConfig
from hone.config.schema.supervised import SupervisedConfig, SupervisedSection

LossName = Literal[
    "sigmoid",
    "sigmoid_norm",
    "hinge",
    "ipo",
    "robust",
    "exo_pair",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "kto",
    "simpo",
    "orpo",
    "cpo",
]
LOSSES: tuple[str, ...] = get_args(LossName)
REFERENCE_FREE = frozenset({"simpo", "orpo", "cpo"})
"""Losses without a reference model."""
ALWAYS_AVERAGED = frozenset({"ipo", "sigmoid_norm", "simpo", "orpo"})
"""Losses of the mean log-probability of an answer's tokens, whatever preference_average_log_probs is."""
WITH_LIKELIHOOD = frozenset({"orpo", "cpo"})
"""Losses that are defined as an addition to the negative log-likelihood of the chosen answers."""
READ_BY: dict[str, frozenset[str]] = {
    "label_smoothing": frozenset(
        ["sigmoid", "sigmoid_norm", "robust", "exo_pair", "aot", "aot_unpaired", "simpo", "cpo"]
    ),
    "simpo_gamma": frozenset({"simpo"}),
    "discopop_tau": frozenset({"discopop"}),
    "desirable_weight": frozenset({"kto"}),
    "undesirable_weight": frozenset({"kto"}),
}
"""Which losses read a setting that not all of them read."""


def _as_weights(value: Any) -> Any:
    """One loss by name, or null, as a mapping. (With a mapping as the default, a given one would be merged into
    it.)"""
    name = "sigmoid" if value is None else value
    return {name: 1.0} if isinstance(name, str) else value


Losses = Annotated[dict[LossName, float], BeforeValidator(_as_weights)]


class DPOSection(SupervisedSection):
    """Learning from comparisons: the loss, the length of the run, its validations."""

    reference_policy_kl_penalty: float = Field(0.05, gt=0)
    """beta: how strongly the policy is kept near the reference model. For simpo, orpo and cpo, which have no
    reference: scale of the log-probabilities."""
    preference_loss: Losses = Field(None, validate_default=True)
    """A loss, or a mapping from losses to weights; null: sigmoid, which is DPO. The others are sigmoid_norm, hinge,
    ipo, robust, exo_pair, nca_pair, bco_pair, sppo_hard, aot, aot_unpaired, apo_zero, apo_down, discopop, kto, simpo,
    orpo, cpo."""
    preference_loss_weight: float = Field(1.0, ge=0)
    """Weight of the preference loss as a whole."""
    preference_average_log_probs: bool = False
    """Compare the mean log-probability of an answer's tokens rather than their sum."""
    sft_loss_weight: float = Field(0.0, ge=0)
    """Weight of the negative log-likelihood of the chosen answers."""
    sft_average_log_probs: Derived[bool] = derived("${dpo.preference_average_log_probs}")
    """Average this likelihood over an answer's tokens rather than summing it."""
    label_smoothing: float | None = Field(None, ge=0, lt=0.5)
    """Probability that a pair is labelled the wrong way round (sigmoid, sigmoid_norm, robust, exo_pair, aot,
    aot_unpaired, simpo, cpo); null: 0, for exo_pair 0.001."""
    simpo_gamma: float | None = Field(None, ge=0)
    """Target reward margin of simpo; null: 0.5."""
    discopop_tau: float | None = Field(None, gt=0)
    """Temperature of the blend in discopop; null: 0.05."""
    desirable_weight: float | None = Field(None, ge=0)
    """Weight of desirable answers in kto; null: 1."""
    undesirable_weight: float | None = Field(None, ge=0)
    """Weight of undesirable answers in kto; null: 1."""


class DPOConfig(SupervisedConfig):
    """All settings of `hone dpo`."""

    policy: PairPolicyConfig = section(PairPolicyConfig)
    dpo: DPOSection = section(DPOSection)
    data: PreferenceDataConfig = section(PreferenceDataConfig)
    checkpointing: PreferenceCheckpointingConfig = section(PreferenceCheckpointingConfig)

    def problems(self) -> Iterator[str]:
        """Losses and settings that exclude each other, and dropout beside a reference model that has none."""
        dpo = self.dpo
        names = dpo.preference_loss.keys()
        if not names:
            yield "dpo.preference_loss names no loss: set it to one, such as sigmoid"
            return
        if any(weight <= 0 for weight in dpo.preference_loss.values()):
            yield f"dpo.preference_loss={dict(dpo.preference_loss)}: weights are above 0; leave a loss out instead"
        if not dpo.preference_loss_weight and not dpo.sft_loss_weight:
            yield "dpo.preference_loss_weight and dpo.sft_loss_weight are both 0: there is nothing to learn from"
        yield from self._unread(", ".join(names))
        if "exo_pair" in names and dpo.label_smoothing == 0:
            yield "dpo.label_smoothing=0 makes exo_pair infinite: set it above 0, or to null for 0.001"
        for name in sorted(WITH_LIKELIHOOD & names):
            if not dpo.sft_loss_weight:
                yield (
                    f"dpo.preference_loss={name} is an addition to the likelihood of the chosen answers, which "
                    "dpo.sft_loss_weight=0 leaves out: set dpo.sft_loss_weight=1"
                    + (" and dpo.sft_average_log_probs=true" if name == "orpo" else "")
                )
        if not self.policy.disable_dropout and names - REFERENCE_FREE:
            yield (
                "policy.disable_dropout=false: the reference model's log-probabilities are computed without dropout, "
                "so the policy's cannot be compared with them; set it to true, or dpo.preference_loss to one of "
                f"{', '.join(sorted(REFERENCE_FREE))}"
            )

    def _unread(self, shown: str) -> Iterator[str]:
        """Settings that none of the chosen losses reads."""
        dpo = self.dpo
        for key, readers in READ_BY.items():
            if getattr(dpo, key) is not None and not readers & dpo.preference_loss.keys():
                yield (
                    f"dpo.{key}={getattr(dpo, key)} does nothing for dpo.preference_loss={shown}: it is for "
                    f"{', '.join(sorted(readers))}; set it to null"
                )
        if dpo.preference_average_log_probs and dpo.preference_loss.keys() <= ALWAYS_AVERAGED:
            yield (
                f"dpo.preference_average_log_probs=true does nothing for dpo.preference_loss={shown}, which always "
                "averages: set it to false"
            )

    def adjustments(self, settings: Settings) -> Iterator[Adjustment]:
        """A setting that one loss alone reads selects that loss; orpo and cpo need the likelihood's weight."""
        for key, readers in READ_BY.items():
            if settings.given(f"dpo.{key}") and settings[f"dpo.{key}"] is not None and len(readers) == 1:
                yield Adjustment("dpo.preference_loss", dict.fromkeys(readers, 1.0), f"dpo.{key}")
        for name in sorted(WITH_LIKELIHOOD & self.dpo.preference_loss.keys()):
            if not self.dpo.sft_loss_weight:
                yield Adjustment("dpo.sft_loss_weight", 1.0, "dpo.preference_loss")
                if name == "orpo":
                    yield Adjustment("dpo.sft_average_log_probs", True, "dpo.preference_loss")
