"""What a vLLM server cannot do for a run, known from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hone.config import EvalConfig, OnlineConfig
from hone.engine.vllm.running import check_servers
from hone.engine.vllm.server import ServerSettings
from hone.engine.vllm.settings import evaluation_settings, training_settings
from hone.errors import ConfigError
from hone.model.model_size import ModelSize

HEAD_DIM_ON_CPU = 32
OWN_ARGUMENTS: dict[str, str | None] = {
    **dict.fromkeys(
        "model host port uds served_model_name logprobs_mode load_format weight_transfer_config enable_scale_out "
        "api_key enable_lora max_loras max_lora_rank lora_modules".split()
    ),
    "dtype": "the server has the run's precision",
    "max_model_len": "the server has the run's longest sequence",
    "tokenizer": "the server has the run's tokenizer",
    "hf_overrides": "the server has policy.hf_config_overrides",
    "seed": "the server has the run's seed",
    "trust_remote_code": "the server has the model's trust_remote_code",
    **{
        name: f"vllm_cfg.{name} is the setting for it"
        for name in ("tensor_parallel_size", "gpu_memory_utilization", "enforce_eager")
    },
}
"""Arguments of `vllm serve` that are not for `vllm_kwargs`, and what decides about them."""


def check(config: OnlineConfig, size: ModelSize) -> None:
    """Raise ConfigError for what a vLLM server cannot do for this run, and ClusterError for one that runs already and
    does not answer. No weight is read."""
    generation, settings = config.policy.generation, training_settings(config)
    check_arguments(generation.vllm_kwargs, "policy.generation")
    check_heads(config.policy.model_name, size, settings, "policy.generation")
    check_servers(generation.vllm_cfg.server_urls, settings, size)


def check_evaluation(config: EvalConfig, size: ModelSize) -> None:
    """As `check`, for an evaluation."""
    generation, settings = config.generation, evaluation_settings(config)
    check_arguments(generation.vllm_kwargs, "generation")
    check_heads(generation.model_name, size, settings, "generation")
    if len(urls := generation.vllm_cfg.server_urls) > 1:
        raise ConfigError("generation.vllm_cfg.server_urls: an evaluation uses one server. Name one")
    check_servers(urls, settings, None)


def check_heads(model: str, size: ModelSize, settings: ServerSettings, section: str) -> None:
    """Raise ConfigError for attention heads that vLLM does not compute on a CPU."""
    if settings.on_cpu and size.head_dim < HEAD_DIM_ON_CPU:
        raise ConfigError(
            f"{model} has attention heads of {size.head_dim} numbers; on a CPU, vLLM computes heads of "
            f"{HEAD_DIM_ON_CPU} and more. Set {section}.backend=builtin"
        )


def check_arguments(arguments: Mapping[str, Any], section: str) -> None:
    """Raise ConfigError for `vllm_kwargs` that would replace what Hone starts the server with."""
    for key in arguments:
        if (name := key.replace("-", "_").removeprefix("no_")) in OWN_ARGUMENTS:
            raise ConfigError(
                f"{section}.vllm_kwargs.{key}: {OWN_ARGUMENTS[name] or 'Hone sets it'}. Remove it, or set "
                f"{section}.backend=builtin"
            )
