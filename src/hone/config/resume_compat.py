"""Which settings may differ when a run resumes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

FREE_TO_CHANGE = (
    "checkpointing",
    "logger",
    "cluster",
    "policy.generation.colocated",
    "policy.generation.vllm_cfg",
)
"""Sections that do not affect what a run computes."""
GOAL_KEYS = ("stop_at_validation_metric", "stop_at_validation_threshold")
LENGTH_KEYS = ("max_num_steps", "max_num_epochs")
VALIDATION_KEYS = ("val_period", "val_at_start", "val_at_end", "val_start_at")
FIT_KEYS = """
train_micro_batch_size logprob_batch_size train_mb_tokens logprob_mb_tokens tensor_parallel_size
context_parallel_size dp_replicate_size sequence_parallel activation_checkpointing cpu_offload
""".split()
"""Settings that fit a run to its devices, which may be other ones when it resumes."""
GONE = ("algorithm", "sequence_length_round")
"""Keys of sequence_packing in configurations of older versions, which had no effect."""
FREE_KEYS = (*GONE, *GOAL_KEYS, *LENGTH_KEYS, *VALIDATION_KEYS, *FIT_KEYS, "num_workers", "trust_remote_code")


def changed_keys(
    old: dict[str, Any], new: dict[str, Any], defaults: dict[str, Any]
) -> tuple[list[str], list[str]]:
    """The keys that differ between two resolved configurations, and `key: old -> new` of those that change what a run
    computes.

    A resolved configuration has every key of its version. A key that `old` lacks was added later; it counts as a
    change only if it does not have its default.
    """
    found = list(_differences(old, new, defaults))
    bad = [
        f"{key}: {before!r} -> {after!r}"
        for key, before, after in found
        if not key.startswith(FREE_TO_CHANGE) and key.split(".")[-1] not in FREE_KEYS
    ]
    return [key for key, _, _ in found], bad


_ABSENT = object()


def _differences(old: Any, new: Any, usual: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            default = usual.get(key, _ABSENT) if isinstance(usual, dict) else _ABSENT
            if key not in old and default is not _ABSENT and default == new[key]:
                continue
            path = f"{prefix}.{key}" if prefix else str(key)
            yield from _differences(old.get(key), new.get(key), default, path)
    elif old != new:
        yield prefix, old, new
