"""Defaults that depend on given settings: a value of a recipe, a preset or the schema never contradicts the user's.

Each rule is about settings that have to agree. If one was given and another was not, the other gets a value that
agrees, and the user gets a notice. If both were given, nothing is changed: `checks` reports both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import UnionType

from hone.config.dependent_defaults import online, shared
from hone.config.dependent_defaults.context import context
from hone.config.dependent_defaults.settings import Adjustment, Rule, Settings
from hone.config.schema import EvalConfig, OnlineConfig, PolicyGradientConfig, RLConfig, TrainingConfig

MAX_ROUNDS = 8
"""Bound on chains of adjustments: an adjusted setting may require that others are adjusted."""
RULES: tuple[tuple[type | UnionType, Rule], ...] = (
    (EvalConfig, shared.evaluation),
    (EvalConfig, shared.turns),
    (TrainingConfig, shared.micro_batches),
    (TrainingConfig, shared.batching),
    (TrainingConfig, shared.budgets),
    (TrainingConfig, shared.adapters),
    (TrainingConfig | EvalConfig, context),
    *((OnlineConfig, rule) for rule in online.RULES),
    (RLConfig, shared.turns),
    *((PolicyGradientConfig, rule) for rule in online.POLICY_GRADIENT),
    (RLConfig, online.shaping),
    (RLConfig, online.sampling),
    (RLConfig, online.streamed),
    (RLConfig, online.apart),
    (RLConfig, online.queued),
    (TrainingConfig, lambda settings: settings.config.adjustments(settings)),
)
"""Each rule, after the configurations that it applies to, in order."""


def adjustments(settings: Settings) -> list[Adjustment]:
    """The adjustments to make, at most one for each key: the first rule that names it decides."""
    found: dict[str, Adjustment] = {}
    for rule in (rule for configs, rule in RULES if isinstance(settings.config, configs)):
        for key, value, cause in rule(settings):
            is_fixed = settings.given(key) or not settings.is_fixed(cause)
            if not is_fixed and settings[key] != value:
                found.setdefault(key, Adjustment(key, value, cause))
    return list(found.values())


def notices(adjusted: Iterable[Adjustment], shown_as: Callable[[str], str]) -> list[str]:
    """One sentence for each given setting that others were adjusted to; `shown_as` writes a key as KEY=VALUE."""
    by_cause: dict[str, list[str]] = {}
    for key, _, cause in adjusted:
        by_cause.setdefault(cause, []).append(shown_as(key))
    return [
        f"{', '.join(keys)}: not given, so {'it follows' if len(keys) == 1 else 'they follow'} {shown_as(cause)}"
        for cause, keys in by_cause.items()
    ]
