"""What each algorithm brings to the supervised loop: its data, its step, its validation."""

from __future__ import annotations

import importlib
from typing import Any

from hone.algorithms.supervised import Method

METHODS = {
    "sft": "hone.algorithms.sft_training:SFT",
    "dpo": "hone.algorithms.dpo_training:DPO",
    "rm": "hone.algorithms.rm_training:RM",
}
"""By command, imported when it is asked for."""


def method_of(kind: str, config: Any, tokenizer: Any) -> Method:
    """The method of a command, its data read. Raises DataError and ConfigError for data that cannot be used."""
    module, _, name = METHODS[kind].partition(":")
    made: Method = getattr(importlib.import_module(module), name)(config, tokenizer)
    return made


__all__ = ["METHODS", "Method", "method_of"]
