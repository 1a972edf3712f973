"""Preference losses: which settings ask for which loss."""

from __future__ import annotations

from collections.abc import Iterator

from hone.config.checks.preferences import READS, WITH_SFT
from hone.config.dependent_defaults.settings import Follow, Rule, Settings


def only_reader(s: Settings) -> Iterator[Follow]:
    """A setting that one loss alone reads asks for that loss."""
    for key, readers in READS.items():
        if s.given(f"dpo.{key}") and s[f"dpo.{key}"] is not None and len(readers) == 1:
            yield Follow("dpo.preference_loss", dict.fromkeys(readers, 1.0), f"dpo.{key}")


def second_half(s: Settings) -> Iterator[Follow]:
    """A loss that is an addition to the likelihood of the chosen answers."""
    for name in sorted(WITH_SFT & s["dpo.preference_loss"].keys()):
        if not s["dpo.sft_loss_weight"]:
            yield Follow("dpo.sft_loss_weight", 1.0, "dpo.preference_loss")
            if name == "orpo":
                yield Follow("dpo.sft_average_log_probs", True, "dpo.preference_loss")


RULES: tuple[Rule, ...] = (only_reader, second_half)
