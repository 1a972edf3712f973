"""Preference losses: which settings ask for which loss."""

from __future__ import annotations

from collections.abc import Iterator

from hone.config.checks.preferences import READS, WITH_SFT
from hone.config.dependent_defaults.settings import Adjustment, Settings


def only_reader(s: Settings) -> Iterator[Adjustment]:
    """A setting that one loss alone reads asks for that loss."""
    for key, readers in READS.items():
        if s.given(f"dpo.{key}") and s[f"dpo.{key}"] is not None and len(readers) == 1:
            yield Adjustment("dpo.preference_loss", dict.fromkeys(readers, 1.0), f"dpo.{key}")


def second_half(s: Settings) -> Iterator[Adjustment]:
    """A loss that is an addition to the likelihood of the chosen answers."""
    for name in sorted(WITH_SFT & s["dpo.preference_loss"].keys()):
        if not s["dpo.sft_loss_weight"]:
            yield Adjustment("dpo.sft_loss_weight", 1.0, "dpo.preference_loss")
            if name == "orpo":
                yield Adjustment("dpo.sft_average_log_probs", True, "dpo.preference_loss")
