"""The configuration of `hone eval`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hone.config.paths import LocalName, LocalPath
from hone.config.schema.base import (
    ConfigModel,
    Count,
    CountOrAll,
    Derived,
    Precision,
    RunConfig,
    derived,
    section,
)
from hone.config.schema.data import EvalDataConfig
from hone.config.schema.environments import EnvConfig
from hone.config.schema.model import SamplingConfig, TokenizerConfig
from hone.config.schema.run import ClusterConfig, RewardsConfig


class EvalSection(ConfigModel):
    """What is measured."""

    metric: Literal["pass@k", "cons@k"] = "pass@k"
    """`pass@k`: the chance that at least one of k answers is right, estimated without bias.
    `cons@k`: how often the commonest of k answers is right; num_tests_per_prompt is a multiple of k."""
    num_tests_per_prompt: int = Field(1, ge=1)
    """Answers sampled for each problem."""
    k_value: int = Field(1, ge=1)
    """k; at most num_tests_per_prompt."""
    max_rollout_turns: int = Field(1, ge=1)
    """Turns of the model's in one answer, where there is an environment; then it ends."""
    seed: int = Field(42, ge=0)
    """Seed of the sampling."""
    metrics: list[LocalName] = Field(default_factory=list)
    """Functions of your own, `my_metrics.py:name` or `pkg.module.name`, reported beside the score. Each is called once
    with lists, by the names of its parameters: predictions, labels, completions, prompts, rewards, or columns of the
    data."""
    save_path: LocalPath | None = None
    """Folder for every answer and the summary; null: nothing is written."""


class EvalTokenizerConfig(TokenizerConfig):
    """The tokenizer and its chat template."""

    name: Derived[LocalName] = derived("${generation.model_name}")
    """Tokenizer name or folder; the model's own if not given."""


class EvalGenerationConfig(SamplingConfig):
    """The model that answers, and how it samples."""

    model_name: LocalName = "hone/tiny-sft"
    """Hugging Face name or folder of the model; or an embedded one: `hone/tiny`, `hone/tiny-sft`."""
    trust_remote_code: bool = False
    """Run the Python code that the model's or the tokenizer's folder brings, where transformers has none for it. It
    runs with your rights: read it first."""
    precision: Precision = "bfloat16"
    """Number format of the model."""
    max_model_len: int = Field(2048, ge=2)
    """Longest sequence, prompt and answer together, in tokens."""
    num_prompts_per_step: CountOrAll = None
    """Problems generated at once; null or -1: chosen."""
    batch_size: int = Field(32, ge=1)
    """Answers that the built-in generator decodes at once. Changes memory and speed only."""
    temperature: float = Field(0.0, ge=0)
    """Sampling temperature; 0 is greedy."""
    max_new_tokens: Derived[Count] = derived("${generation.max_model_len}")
    """Longest answer; a prompt leaves at most max_model_len minus its own length."""


class EvalConfig(RunConfig):
    """All settings of `hone eval`."""

    eval: EvalSection = section(EvalSection)
    generation: EvalGenerationConfig = section(EvalGenerationConfig)
    tokenizer: EvalTokenizerConfig = section(EvalTokenizerConfig)
    data: EvalDataConfig = section(EvalDataConfig)
    rewards: RewardsConfig = section(RewardsConfig)
    env: EnvConfig = section(EnvConfig)
    cluster: ClusterConfig = section(ClusterConfig)
