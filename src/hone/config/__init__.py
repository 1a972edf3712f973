"""Typed configuration with NeMo RL's names. `load` is the way in; importing this imports no torch."""

from __future__ import annotations

from hone.config.loading.load import Loaded, load
from hone.config.schema import (
    DistillConfig,
    DPOConfig,
    EvalConfig,
    GRPOConfig,
    OnlineConfig,
    PPOConfig,
    RLConfig,
    RMConfig,
    SFTConfig,
    TrainingConfig,
)

__all__ = [
    "DPOConfig",
    "DistillConfig",
    "EvalConfig",
    "GRPOConfig",
    "Loaded",
    "OnlineConfig",
    "PPOConfig",
    "RLConfig",
    "RMConfig",
    "SFTConfig",
    "TrainingConfig",
    "load",
]
