"""The typed configuration: one root model per command, each key once, with its default and what it means."""

from __future__ import annotations

from hone.config.schema.base import ConfigModel
from hone.config.schema.data import (
    DataConfig,
    DatasetEntry,
    DatasetSource,
    EvalDataConfig,
    PreferenceDataConfig,
    PreferenceEntry,
)
from hone.config.schema.distill import DistillConfig, DistillLossConfig, DistillSection, TeacherConfig
from hone.config.schema.dpo import DPOConfig, DPOSection
from hone.config.schema.environments import EnvConfig, EnvironmentConfig
from hone.config.schema.evaluation import EvalConfig
from hone.config.schema.grpo import GRPOConfig, GRPOSection
from hone.config.schema.model import GenerationConfig, ModelConfig
from hone.config.schema.online import (
    LossConfig,
    OnlineConfig,
    OnlineSection,
    PolicyGradientConfig,
    RLConfig,
    RLSection,
)
from hone.config.schema.ppo import PPOConfig, PPOSection, ValueConfig, ValueLossConfig
from hone.config.schema.rm import RMConfig, RMSection
from hone.config.schema.roots import (
    ROOTS,
    SupervisedConfig,
    TrainingConfig,
    algorithm_of,
    own_section,
    section_of,
)
from hone.config.schema.run import (
    CheckpointingConfig,
    ClusterConfig,
    LoggerConfig,
    RewardFunctionConfig,
    RewardsConfig,
)
from hone.config.schema.sft import SFTConfig, SFTSection, SupervisedSection

__all__ = [
    "ROOTS",
    "CheckpointingConfig",
    "ClusterConfig",
    "ConfigModel",
    "DPOConfig",
    "DPOSection",
    "DataConfig",
    "DatasetEntry",
    "DatasetSource",
    "DistillConfig",
    "DistillLossConfig",
    "DistillSection",
    "EnvConfig",
    "EnvironmentConfig",
    "EvalConfig",
    "EvalDataConfig",
    "GRPOConfig",
    "GRPOSection",
    "GenerationConfig",
    "LoggerConfig",
    "LossConfig",
    "ModelConfig",
    "OnlineConfig",
    "OnlineSection",
    "PPOConfig",
    "PPOSection",
    "PolicyGradientConfig",
    "PreferenceDataConfig",
    "PreferenceEntry",
    "RLConfig",
    "RLSection",
    "RMConfig",
    "RMSection",
    "RewardFunctionConfig",
    "RewardsConfig",
    "SFTConfig",
    "SFTSection",
    "SupervisedConfig",
    "SupervisedSection",
    "TeacherConfig",
    "TrainingConfig",
    "ValueConfig",
    "ValueLossConfig",
    "algorithm_of",
    "own_section",
    "section_of",
]
