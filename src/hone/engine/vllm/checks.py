"""What a vLLM server cannot do for a run, known from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hone.config import EvalConfig, OnlineConfig
from hone.engine.vllm.lora import RANKS
from hone.errors import ConfigError
from hone.model.model_size import ModelSize
from hone.planning.auxiliary_models import readable_tokens
from hone.planning.placement import device_of_this_process

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
    """Raise ConfigError for what a vLLM server cannot do for this run. No weight is read."""
    lora, on_cpu = config.policy.lora, device_of_this_process(config.cluster).type == "cpu"
    logprobs_mode(config)
    check_arguments(config.policy.generation.vllm_kwargs, "policy.generation")
    check_heads(config.policy.model_name, size, "policy.generation", on_cpu=on_cpu)
    problems = {
        "lora.load_in_4bit": lora.load_in_4bit,  # the base that the server would read is another one
        "lora.use_dora": lora.use_dora,
        "lora.adalora": lora.adalora.enabled,
        "lora.modules_to_save": bool(lora.modules_to_save),
        "lora.trainable_token_indices": bool(lora.trainable_token_indices),
        f"lora.init_lora_weights={lora.init_lora_weights}": lora.modifies_base_weights,
        f"lora.dim={lora.dim}": lora.dim > RANKS[-1],
    }
    if lora.enabled and (refused := [name for name, is_set in problems.items() if is_set]):
        raise ConfigError(f"policy.{refused[0]}: vLLM cannot run such adapters. {_use_builtin()}")


def check_evaluation(config: EvalConfig, size: ModelSize) -> None:
    """As `check`, for an evaluation."""
    on_cpu = device_of_this_process(config.cluster).type == "cpu"
    check_arguments(config.generation.vllm_kwargs, "generation")
    check_heads(config.generation.model_name, size, "generation", on_cpu=on_cpu)


def check_heads(model: str, size: ModelSize, section: str, *, on_cpu: bool) -> None:
    """Raise ConfigError for attention heads that vLLM does not compute on a CPU."""
    if on_cpu and size.head_dim < HEAD_DIM_ON_CPU:
        raise ConfigError(
            f"{model} has attention heads of {size.head_dim} numbers; on a CPU, vLLM computes heads of "
            f"{HEAD_DIM_ON_CPU} and more. {_use_builtin(section)}"
        )


def check_arguments(arguments: Mapping[str, Any], section: str) -> None:
    """Raise ConfigError for `vllm_kwargs` that would replace what Hone starts the server with."""
    for key in arguments:
        if (name := key.replace("-", "_").removeprefix("no_")) in OWN_ARGUMENTS:
            raise ConfigError(
                f"{section}.vllm_kwargs.{key}: {OWN_ARGUMENTS[name] or 'Hone sets it'}. Remove it, or set "
                f"{section}.backend=builtin"
            )


def logprobs_mode(config: OnlineConfig) -> str:
    """How the server is to give log-probabilities: of all tokens, at the sampling temperature.

    Raises ConfigError where vLLM cannot: its two kinds are those before the temperature and every filter, and those
    after them.
    """
    settings = config.policy.generation
    if {settings.temperature, config.logits_temperature} <= {0.0, 1.0}:
        return "raw_logprobs"
    changed = {
        "policy.generation.top_p": settings.top_p < 1,
        "policy.generation.top_k": settings.top_k is not None,
        "policy.generation.min_p": settings.min_p > 0,
        "policy.generation.min_new_tokens": settings.min_new_tokens > 0,
        "a teacher that lacks some tokens": readable_tokens(config) is not None,
    }
    if given := [name for name, is_set in changed.items() if is_set]:
        raise ConfigError(
            f"{given[0]} with temperature={config.logits_temperature:g}: vLLM does not give the log-probabilities of "
            f"the unfiltered distribution then. Set temperature=1, or do without. {_use_builtin()}"
        )
    return "processed_logprobs"


def _use_builtin(section: str = "policy.generation") -> str:
    return f"Set {section}.backend=builtin"
