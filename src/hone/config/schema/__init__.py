"""The typed configuration: each key once, with its default and its meaning. An algorithm's root model is in a file of
its name; `ROOTS` has them by command."""

from __future__ import annotations

from hone.config.schema.environments import EnvConfig, EnvironmentConfig
from hone.config.schema.evaluation import EvalConfig
from hone.config.schema.model import ModelConfig
from hone.config.schema.online import LossConfig, OnlineConfig, PolicyGradientConfig, RLConfig, RLSection
from hone.config.schema.roots import ROOTS, own_section, section_of
from hone.config.schema.run import CheckpointingConfig, ClusterConfig, RewardsConfig
from hone.config.schema.supervised import SupervisedConfig
from hone.config.schema.training import TrainingConfig

__all__ = [
    "ROOTS",
    "CheckpointingConfig",
    "ClusterConfig",
    "EnvConfig",
    "EnvironmentConfig",
    "EvalConfig",
    "LossConfig",
    "ModelConfig",
    "OnlineConfig",
    "PolicyGradientConfig",
    "RLConfig",
    "RLSection",
    "RewardsConfig",
    "SupervisedConfig",
    "TrainingConfig",
    "own_section",
    "section_of",
]
