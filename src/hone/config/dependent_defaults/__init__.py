"""What was not given follows what was: a value of a recipe, a preset or a default never stands against the user's.

Each rule knows settings that have to agree. Where one of them was given and another was not, the other gets a value
that agrees, which is said. Where both were given nothing is changed: `checks` names both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hone.config.dependent_defaults import online, preferences, shared
from hone.config.dependent_defaults.context import context
from hone.config.dependent_defaults.settings import Follow, Rule, Settings
from hone.config.schema import DPOConfig, EvalConfig, OnlineConfig, RLConfig

__all__ = ["ROUNDS", "Follow", "Settings", "follow", "told"]

ROUNDS = 8
"""What follows may be followed in turn; no chain is as long as this."""


def follow(settings: Settings) -> list[Follow]:
    """What has to change, once for each key: the first rule that is about it decides."""
    found: dict[str, Follow] = {}
    for rule in _rules(settings.config):
        for key, value, after in rule(settings):
            fixed = settings.given(key) or not settings.stands(after)
            if not fixed and settings[key] != value:
                found.setdefault(key, Follow(key, value, after))
    return list(found.values())


def told(moved: Iterable[Follow], shown_as: Callable[[str], str]) -> list[str]:
    """One sentence for each given setting that others follow; `shown_as` says a key as KEY=VALUE."""
    by_cause: dict[str, list[str]] = {}
    for key, _, after in moved:
        by_cause.setdefault(after, []).append(shown_as(key))
    return [
        f"{', '.join(keys)}: not given, so {'it follows' if len(keys) == 1 else 'they follow'} {shown_as(after)}"
        for after, keys in by_cause.items()
    ]


def _rules(config: object) -> tuple[Rule, ...]:
    if isinstance(config, EvalConfig):
        return (shared.evaluation, shared.turns, context)
    rules: tuple[Rule, ...] = (shared.micro_batches, shared.layouts, shared.budgets, shared.adapters, context)
    if isinstance(config, DPOConfig):
        rules += preferences.RULES
    if isinstance(config, OnlineConfig):
        rules += online.RULES
    if isinstance(config, RLConfig):
        rules += (shared.turns, *online.REWARDED)
    return rules
