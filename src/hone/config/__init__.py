"""Typed configuration with NeMo RL's names. `load` is the way in; importing this imports no torch."""

from __future__ import annotations

from hone.config.loading.load import Loaded, load
from hone.config.reference_table import document
from hone.config.schema import (
    DistillConfig,
    DPOConfig,
    EvalConfig,
    GRPOConfig,
    OnlineConfig,
    PPOConfig,
    RewardedConfig,
    RMConfig,
    SFTConfig,
)

__all__ = [
    "DPOConfig",
    "DistillConfig",
    "EvalConfig",
    "GRPOConfig",
    "Loaded",
    "OnlineConfig",
    "PPOConfig",
    "RMConfig",
    "RewardedConfig",
    "SFTConfig",
    "document",
    "load",
]
