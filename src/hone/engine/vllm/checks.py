"""What a vLLM server cannot do for a run, known from its configuration."""

from __future__ import annotations

from hone.config import OnlineConfig
from hone.engine.vllm.lora import RANKS
from hone.errors import ConfigError
from hone.model.model_size import ModelSize
from hone.planning.auxiliary_models import readable_tokens
from hone.planning.placement import device_of_this_process

HEAD_DIM_ON_CPU = 32
BUILTIN = "Set policy.generation.backend=builtin"


def check(config: OnlineConfig, size: ModelSize) -> None:
    """Raise ConfigError for what a vLLM server cannot do for this run. No weight is read."""
    lora, on_cpu = config.policy.lora, device_of_this_process(config.cluster).type == "cpu"
    logprobs_mode(config)
    if on_cpu and size.head_dim < HEAD_DIM_ON_CPU:
        raise ConfigError(
            f"{config.policy.model_name} has attention heads of {size.head_dim} numbers; on a CPU, vLLM computes heads "
            f"of {HEAD_DIM_ON_CPU} and more. {BUILTIN}"
        )
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
        raise ConfigError(f"policy.{refused[0]}: vLLM cannot run such adapters. {BUILTIN}")


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
            f"the unfiltered distribution then. Set temperature=1, or do without. {BUILTIN}"
        )
    return "processed_logprobs"
