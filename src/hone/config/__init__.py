"""Typed configuration with NeMo RL's names. `load` is the entry point; importing this imports no torch."""

from __future__ import annotations

from hone.config.loading.load import Loaded, load
from hone.config.schema import EvalConfig, OnlineConfig, RLConfig, TrainingConfig

__all__ = ["EvalConfig", "Loaded", "OnlineConfig", "RLConfig", "TrainingConfig", "load"]
