"""What a configuration asks of a vLLM server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from hone.config import EvalConfig, OnlineConfig
from hone.config.schema.model import SamplingConfig
from hone.engine.vllm.lora import server_arguments
from hone.engine.vllm.server import ServerSettings
from hone.errors import ConfigError
from hone.model.loading import resolve
from hone.model.model_size import load_model_size
from hone.planning.auxiliary_models import readable_tokens
from hone.planning.placement import runs_on_cpu, servers_sleep


def training_settings(config: OnlineConfig) -> ServerSettings:
    """Of a server for a run. Raises ConfigError for what vLLM cannot do."""
    policy = config.policy
    return ServerSettings(
        resolve(policy.model_name),
        policy.max_total_sequence_length,
        policy.precision,
        logprobs_mode(config),
        tokenizer=resolve(policy.tokenizer.name),
        trust_remote_code=policy.trust_remote_code,
        overrides=policy.hf_config_overrides,
        seed=config.algorithm.seed % 2**31,
        sleeps=servers_sleep(config),
        **server_options(
            policy.generation,
            server_arguments(policy.lora) if policy.lora.enabled else (),
            on_cpu=runs_on_cpu(config.cluster),
        ),
    )


def evaluation_settings(config: EvalConfig) -> ServerSettings:
    """Of a server of the model that is evaluated."""
    generation = config.generation
    trust = generation.trust_remote_code
    context = load_model_size(generation.model_name, trust_remote_code=trust).context
    return ServerSettings(
        resolve(generation.model_name),
        min(generation.max_model_len, context or generation.max_model_len),
        generation.precision,
        "raw_logprobs",
        tokenizer=resolve(config.tokenizer.name),
        trust_remote_code=trust,
        trained=False,
        **server_options(generation, on_cpu=runs_on_cpu(config.cluster)),
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
            "the unfiltered distribution then. Set temperature=1, or do without. Set policy.generation.backend=builtin"
        )
    return "processed_logprobs"


def server_options(generation: SamplingConfig, extra: Sequence[str] = (), *, on_cpu: bool) -> dict[str, Any]:
    """Of ServerSettings, what vllm_cfg, vllm_kwargs and the device say."""
    vllm = generation.vllm_cfg
    arguments = [text for key, value in generation.vllm_kwargs.items() for text in _argument(key, value)]
    return {
        "tensor_parallel_size": vllm.tensor_parallel_size,
        "gpu_memory_utilization": None if on_cpu else vllm.gpu_memory_utilization,
        "enforce_eager": vllm.enforce_eager,
        "on_cpu": on_cpu,
        "arguments": [*arguments, *extra],
    }


def _argument(key: str, value: Any) -> Iterator[str]:
    """`max_num_seqs: 512` as `--max-num-seqs 512`; true as the flag alone, false as its `--no-` form."""
    name = key.replace("_", "-")
    if isinstance(value, bool):
        yield f"--{name}" if value else f"--no-{name}"
    else:
        yield from (f"--{name}", str(value))
