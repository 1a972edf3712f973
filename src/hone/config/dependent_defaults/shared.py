"""Batches, batching methods, adapters and evaluation, of any algorithm."""

from __future__ import annotations

import math
from collections.abc import Iterator

from hone.config.dependent_defaults.settings import Adjustment, Settings, divisor, models, nearest_multiple
from hone.config.schema import OnlineConfig


def micro_batches(s: Settings) -> Iterator[Adjustment]:
    for model in models(s):
        whole, micro = f"{model}.train_global_batch_size", f"{model}.train_micro_batch_size"
        size, part = s[whole], s[micro]
        if part is None or size % part == 0:
            continue
        if not s.given(micro):
            yield Adjustment(micro, divisor(size, part), whole)
        elif not isinstance(s.config, OnlineConfig):  # there it is a divisor of the rollout, too
            yield Adjustment(whole, nearest_multiple(size, part), micro)


def batching(s: Settings) -> Iterator[Adjustment]:
    """Dynamic batching and sequence packing exclude each other."""
    for model in models(s):
        keys = [f"{model}.{method}.enabled" for method in ("dynamic_batching", "sequence_packing")]
        if all(s[key] for key in keys):
            for key, other in (keys, keys[::-1]):
                if s.given(other):
                    yield Adjustment(key, False, other)


def budgets(s: Settings) -> Iterator[Adjustment]:
    """A token budget holds the longest sequence, or the longest pair."""
    for model in models(s):
        longest, unit = f"{model}.max_total_sequence_length", s[model].sequences_per_unit
        for method in ("dynamic_batching", "sequence_packing"):
            for key in ("train_mb_tokens", "logprob_mb_tokens") if s[f"{model}.{method}.enabled"] else ():
                budget = f"{model}.{method}.{key}"
                if s.given(budget) and s[budget] is not None and s[budget] < s[longest] * unit:
                    yield Adjustment(longest, max(2, s[budget] // unit), budget)


def adapters(s: Settings) -> Iterator[Adjustment]:
    for model in models(s):
        head = f"{model}.lora"
        given = [key for key in s.given_below(head) if key != f"{head}.enabled"]
        if asked := sorted(key for key in given if s[key] not in (None, False, [])):
            yield Adjustment(f"{head}.enabled", True, asked[0])
        if s[f"{head}.target_modules"] and s[f"{head}.match_all_linear"]:
            yield Adjustment(f"{head}.match_all_linear", False, f"{head}.target_modules")
        start, rank = f"{head}.adalora.init_r", f"{head}.dim"
        if s[f"{head}.adalora.enabled"] and s.given(start) and s[start] is not None and s[start] <= s[rank]:
            yield Adjustment(rank, max(1, s[start] * 2 // 3), start)


def turns(s: Settings) -> Iterator[Adjustment]:
    """An environment needs more than one turn."""
    turns = f"{s.section}.max_rollout_turns"
    if s.config.env.is_configured and s[turns] == 1:
        yield Adjustment(turns, 4, "env.path" if s["env.path"] else "env.tools")


def evaluation(s: Settings) -> Iterator[Adjustment]:
    """pass@k and cons@k need at least k answers to each problem, and answers that differ."""
    k, count, temperature = "eval.k_value", "eval.num_tests_per_prompt", "generation.temperature"
    if s[k] > s[count] or (s["eval.metric"] == "cons@k" and s[count] % s[k]):
        yield Adjustment(count, s[k] * math.ceil(s[count] / s[k]), k)
        yield Adjustment(k, divisor(s[count], s[k]), count)
    if s[count] > 1 and s[temperature] == 0:
        yield Adjustment(temperature, 0.6, count)
