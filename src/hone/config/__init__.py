"""Typed configuration with NeMo RL's names. `load` is the way in; importing this imports no torch."""

from __future__ import annotations

from hone.config.document import document
from hone.config.loading import Loaded, load
from hone.config.schema import (
    DPOConfig,
    EvalConfig,
    GRPOConfig,
    OnlineConfig,
    PPOConfig,
    RMConfig,
    SFTConfig,
)

__all__ = [
    "DPOConfig",
    "EvalConfig",
    "GRPOConfig",
    "Loaded",
    "OnlineConfig",
    "PPOConfig",
    "RMConfig",
    "SFTConfig",
    "document",
    "load",
]
