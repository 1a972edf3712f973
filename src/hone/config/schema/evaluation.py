"""The configuration of `hone eval`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

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
from hone.config.schema.endpoint import EndpointConfig
from hone.config.schema.environments import EnvConfig
from hone.config.schema.model import SamplingConfig, TokenizerConfig
from hone.config.schema.run import ClusterConfig, RewardsConfig


def _split_names(value: Any) -> Any:
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


class EvalSection(ConfigModel):
    """The metric, and how many answers it uses."""

    suite: Annotated[list[LocalName], BeforeValidator(_split_names)] = Field(default_factory=list)
    """Suites to evaluate on, in place of `data`: names such as `math500,gsm8k` (docs/evaluation.md), or YAML files of
    your own."""
    suite_data: dict[str, LocalName] = Field(default_factory=dict)
    """Data of a suite in place of its hub data set: `{gsm8k: FILE}`, or a folder with one file for each split."""
    num_fewshot: int | None = Field(None, ge=0)
    """Solved examples before each problem of a suite or task; null: as the suite says, and none in a chat."""
    apply_chat_template: bool | None = None
    """Whether the prompts of suites are chats; null: where the model has a chat template, except for
    log-likelihoods."""
    contamination_data: LocalName | None = None
    """Training data that is searched for the problems of the suites, by n-grams of words: a file, a folder or a hub
    name."""
    lm_eval: Annotated[list[str], BeforeValidator(_split_names)] = Field(default_factory=list)
    """Tasks of lm-evaluation-harness to evaluate on, in place of `data` (the extra `eval`): `arc_easy,hellaswag`."""
    lm_eval_path: LocalPath | None = None
    """Folder with further tasks of lm-evaluation-harness, as its --include_path."""
    metric: Literal["pass@k", "cons@k"] = "pass@k"
    """`pass@k`: probability that at least one of k answers is correct, an unbiased estimate. `cons@k`: how often the
    most common of k answers is correct; num_tests_per_prompt must be a multiple of k."""
    num_tests_per_prompt: int = Field(1, ge=1)
    """Answers sampled for each problem."""
    k_value: int = Field(1, ge=1)
    """k; at most num_tests_per_prompt."""
    max_rollout_turns: int = Field(1, ge=1)
    """Maximum number of model turns in an answer with an environment."""
    seed: int = Field(42, ge=0)
    """Seed of the sampling."""
    metrics: list[LocalName] = Field(default_factory=list)
    """Your own metric functions, `my_metrics.py:name` or `pkg.module.name`, reported with the score. Each is called
    once; the names of its parameters select the lists it gets: predictions, labels, completions, prompts, rewards, or
    columns of the data."""
    save_path: LocalPath | None = None
    """Folder for every answer and the summary; null: nothing is written."""

    @property
    def has_own_data(self) -> bool:
        """Whether the problems are those of suites or of tasks of lm-evaluation-harness."""
        return bool(self.suite or self.lm_eval)


class EvalTokenizerConfig(TokenizerConfig):
    """The tokenizer and its chat template."""

    name: Derived[LocalName] = derived("${generation.model_name}")
    """Tokenizer name or folder; default: the model's own."""


class EvalGenerationConfig(SamplingConfig):
    """The model that answers, and how it samples."""

    model_name: LocalName = "hone/tiny-sft"
    """Hugging Face name or folder of the model; or an embedded one: `hone/tiny`, `hone/tiny-sft`."""
    trust_remote_code: bool = False
    """Run the Python code in the model's or the tokenizer's folder, where transformers has none for it. The code runs
    with your permissions: read it first."""
    precision: Precision = "bfloat16"
    """Number format of the model."""
    max_model_len: int = Field(2048, ge=2)
    """Longest sequence, prompt and answer together, in tokens."""
    num_prompts_per_step: CountOrAll = None
    """Problems generated at once; null or -1: chosen automatically."""
    batch_size: int = Field(32, ge=1)
    """Answers that the built-in generator decodes at once. Changes memory and speed, never the result."""
    temperature: float = Field(0.0, ge=0)
    """Sampling temperature; 0 is greedy."""
    max_new_tokens: Derived[Count] = derived("${generation.max_model_len}")
    """Maximum tokens of an answer. Prompt and answer together have at most max_model_len."""
    openai_cfg: EndpointConfig = section(EndpointConfig)

    @property
    def has_tokens(self) -> bool:
        """Whether prompts are tokenized here and answers are tokens; else an endpoint takes and gives text."""
        return self.backend != "openai" or self.openai_cfg.api == "tokens"


class EvalConfig(RunConfig):
    """All settings of `hone eval`."""

    eval: EvalSection = section(EvalSection)
    generation: EvalGenerationConfig = section(EvalGenerationConfig)
    tokenizer: EvalTokenizerConfig = section(EvalTokenizerConfig)
    data: EvalDataConfig = section(EvalDataConfig)
    rewards: RewardsConfig = section(RewardsConfig)
    env: EnvConfig = section(EnvConfig)
    cluster: ClusterConfig = section(ClusterConfig)
