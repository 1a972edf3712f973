"""The typed configuration: each key once, with its default and its meaning. An algorithm's root model is in a file of
its name; `ROOTS` has them by command."""

from __future__ import annotations

from hone.config.schema.base import ConfigModel
from hone.config.schema.data import DatasetEntry, DatasetSource, PreferenceEntry
from hone.config.schema.environments import EnvConfig, EnvironmentConfig
from hone.config.schema.evaluation import EvalConfig
from hone.config.schema.model import GenerationConfig, ModelConfig
from hone.config.schema.online import (
    LossConfig,
    OnlineConfig,
    OnlineSection,
    PolicyGradientConfig,
    RLConfig,
    RLSection,
)
from hone.config.schema.roots import ROOTS, algorithm_of, own_section, section_of
from hone.config.schema.run import (
    CheckpointingConfig,
    ClusterConfig,
    LoggerConfig,
    RewardFunctionConfig,
    RewardsConfig,
)
from hone.config.schema.supervised import SupervisedConfig, SupervisedSection
from hone.config.schema.training import TrainingConfig

__all__ = [
    "ROOTS",
    "CheckpointingConfig",
    "ClusterConfig",
    "ConfigModel",
    "DatasetEntry",
    "DatasetSource",
    "EnvConfig",
    "EnvironmentConfig",
    "EvalConfig",
    "GenerationConfig",
    "LoggerConfig",
    "LossConfig",
    "ModelConfig",
    "OnlineConfig",
    "OnlineSection",
    "PolicyGradientConfig",
    "PreferenceEntry",
    "RLConfig",
    "RLSection",
    "RewardFunctionConfig",
    "RewardsConfig",
    "SupervisedConfig",
    "SupervisedSection",
    "TrainingConfig",
    "algorithm_of",
    "own_section",
    "section_of",
]
