"""Conditions under which NeMo RL's sections are in use, and its policy keys for the value model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from hone.config.alias import Accept, Alias, Compute, Context, KeyRule, Switch

MEGATRON = Switch("policy.megatron_cfg.enabled")
DTENSOR = Switch("policy.dtensor_cfg.enabled", default=True, unless="policy.megatron_cfg.enabled")
LORA = Switch("policy.lora.enabled")


def swapped(key: str) -> str:
    """The value model's key for a key of the policy."""
    return key.replace("policy.", "value.")


def aliases_of_value(aliases: Iterable[Alias]) -> list[Alias]:
    """The policy's aliases, for the value model."""
    return [
        replace(
            alias,
            path=swapped(alias.path),
            to=tuple(map(swapped, alias.to)),
            beats=tuple(map(swapped, alias.beats)),
            when=_switch(alias.when),
            compute=None if alias.compute is None else _compute(alias.compute),
        )
        for alias in aliases
    ]


def rules_of_value(rules: Iterable[KeyRule]) -> list[KeyRule]:
    """The policy's rules, for the value model."""
    return [
        replace(
            rule,
            pattern=swapped(rule.pattern),
            reason=swapped(rule.reason),
            while_off=_switch(rule.while_off),
            allowed=_accept(rule.allowed) if callable(rule.allowed) else rule.allowed,
        )
        for rule in rules
        if rule.pattern.startswith("policy.")
    ]


def _switch(switch: Switch | None) -> Switch | None:
    if switch is None:
        return None
    return replace(switch, key=swapped(switch.key), unless=switch.unless and swapped(switch.unless))


def _accept(accept: Accept) -> Accept:
    return lambda value, ours: accept(value, lambda key: ours(swapped(key)))


def _compute(compute: Compute) -> Compute:
    def of_value(value: Any, context: Context) -> dict[str, Any]:
        here = Context(
            context.section,
            ours=lambda key: context.ours(swapped(key)),
            written=lambda key: context.written(swapped(key)),
            given=lambda key: context.given(swapped(key)),
        )
        return {swapped(key): result for key, result in compute(value, here).items()}

    return of_value
