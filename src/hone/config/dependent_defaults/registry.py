"""Defaults that depend on what was given: a value of a recipe, a preset or a default never stands against the user's.

Each rule knows settings that have to agree. Where one of them was given and another was not, the other gets a value
that agrees, and the user is told. Where both were given nothing is changed: `checks` names both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import UnionType

from hone.config.dependent_defaults import online, preferences, shared
from hone.config.dependent_defaults.context import context
from hone.config.dependent_defaults.settings import Adjustment, Rule, Settings
from hone.config.schema import (
    DPOConfig,
    EvalConfig,
    OnlineConfig,
    PolicyGradientConfig,
    RLConfig,
    TrainingConfig,
)

MAX_ROUNDS = 8
"""An adjusted setting may have others adjusted in turn; no chain is as long as this."""
RULES: tuple[tuple[type | UnionType, Rule], ...] = (
    (EvalConfig, shared.evaluation),
    (EvalConfig, shared.turns),
    (TrainingConfig, shared.micro_batches),
    (TrainingConfig, shared.layouts),
    (TrainingConfig, shared.budgets),
    (TrainingConfig, shared.adapters),
    (TrainingConfig | EvalConfig, context),
    (DPOConfig, preferences.only_reader),
    (DPOConfig, preferences.second_half),
    *((OnlineConfig, rule) for rule in online.RULES),
    (RLConfig, shared.turns),
    *((PolicyGradientConfig, rule) for rule in online.POLICY_GRADIENT),
    *((RLConfig, rule) for rule in online.REWARDED),
)
"""Which configurations a rule is for, and the rule, in order."""


def adjustments(settings: Settings) -> list[Adjustment]:
    """What has to change, once for each key: the first rule that is about it decides."""
    found: dict[str, Adjustment] = {}
    for rule in (rule for configs, rule in RULES if isinstance(settings.config, configs)):
        for key, value, cause in rule(settings):
            is_fixed = settings.given(key) or not settings.is_fixed(cause)
            if not is_fixed and settings[key] != value:
                found.setdefault(key, Adjustment(key, value, cause))
    return list(found.values())


def notices(adjusted: Iterable[Adjustment], shown_as: Callable[[str], str]) -> list[str]:
    """One sentence for each given setting that others follow; `shown_as` writes a key as KEY=VALUE."""
    by_cause: dict[str, list[str]] = {}
    for key, _, cause in adjusted:
        by_cause.setdefault(cause, []).append(shown_as(key))
    return [
        f"{', '.join(keys)}: not given, so {'it follows' if len(keys) == 1 else 'they follow'} {shown_as(cause)}"
        for cause, keys in by_cause.items()
    ]
