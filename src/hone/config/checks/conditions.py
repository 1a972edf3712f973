"""Settings that are read only under a condition: the entries of `checks.unused`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hone.config.dependent_defaults.settings import Settings

Condition = Callable[[Settings], bool]


@dataclass(frozen=True)
class ConditionalSettings:
    """Settings that nothing reads unless `condition` holds. `{section}` is the algorithm's own; `.*` is all below."""

    keys: tuple[str, ...]
    condition: Condition
    reason: str


def read_if(condition: Condition | str, keys: str, reason: str = "") -> ConditionalSettings:
    """Settings that are read if a condition holds, or if the setting with that key is on.

    `keys` are separated by white space. A first one that ends in `:` is the section of the others.
    """
    first, *others = keys.split()
    names = [f"{first[:-1]}.{key}" for key in others] if first.endswith(":") else [first, *others]
    if isinstance(condition, str):
        return ConditionalSettings(tuple(names), is_on(condition), reason or f"{condition} is off")
    return ConditionalSettings(tuple(names), condition, reason)


def is_on(key: str) -> Condition:
    """That a setting is not false, 0 or null."""
    return lambda s: bool(s[key.format(section=s.section)])


def never(s: Settings) -> bool:
    """The condition of settings that a command accepts and never reads."""
    return False


def only_for(estimators: str, keys: str) -> ConditionalSettings:
    """Settings that only some advantage estimators read."""
    names = estimators.split()
    verb = "s {} read it" if len(names) > 1 else " {} reads it"
    reason = "only the estimator" + verb.format(" and ".join(names))
    return read_if(lambda s: s[f"{s.section}.adv_estimator.name"] in names, keys, reason)


def lora_conditions(model: str) -> tuple[ConditionalSettings, ...]:
    """Settings of the adapters of one model."""
    lora = f"{model}.lora"
    return (
        read_if(f"{lora}.load_in_4bit", f"{lora}: bnb_4bit_quant_type bnb_4bit_use_double_quant"),
        read_if(
            lambda s: s[f"{lora}.adapter_path"] is None,
            f"{lora}: dim alpha use_rslora use_dora target_modules",
            f"the adapter of {lora}.adapter_path has its own",
        ),
    )
