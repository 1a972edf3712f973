"""The typed configuration: one root model per command, each key once, with its default and what it means."""

from __future__ import annotations

from hone.config.schema.base import ConfigModel
from hone.config.schema.data import DataConfig, DatasetEntry, DatasetSource, EvalDataConfig
from hone.config.schema.evaluation import EvalConfig
from hone.config.schema.grpo import GRPOConfig, GRPOSection, LossConfig
from hone.config.schema.policy import GenerationConfig, PolicyConfig
from hone.config.schema.run import (
    CheckpointingConfig,
    ClusterConfig,
    LoggerConfig,
    RewardFunctionConfig,
    RewardsConfig,
)
from hone.config.schema.sft import SFTConfig, SFTSection

ROOTS: dict[str, type[SFTConfig | GRPOConfig | EvalConfig]] = {
    "sft": SFTConfig,
    "grpo": GRPOConfig,
    "eval": EvalConfig,
}

__all__ = [
    "ROOTS",
    "CheckpointingConfig",
    "ClusterConfig",
    "ConfigModel",
    "DataConfig",
    "DatasetEntry",
    "DatasetSource",
    "EvalConfig",
    "EvalDataConfig",
    "GRPOConfig",
    "GRPOSection",
    "GenerationConfig",
    "LoggerConfig",
    "LossConfig",
    "PolicyConfig",
    "RewardFunctionConfig",
    "RewardsConfig",
    "SFTConfig",
    "SFTSection",
]
