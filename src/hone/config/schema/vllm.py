"""Settings of vLLM as the generator."""

from __future__ import annotations

import importlib.util

from pydantic import Field

from hone.config.schema.base import ConfigModel


class VLLMConfig(ConfigModel):
    """vLLM as the generator (`backend: vllm`)."""

    tensor_parallel_size: int = Field(1, ge=1)
    """GPUs that share each layer of one server."""
    gpu_memory_utilization: float = Field(0.6, gt=0, le=1)
    """Share of a GPU's memory that the server takes for weights and cache."""
    enforce_eager: bool = False
    """Without CUDA graphs: starts sooner, generates slower."""
    start_timeout_s: float = Field(900.0, gt=0)
    """How long a server may take to start."""


def vllm_is_installed() -> bool:
    """Whether the Python that runs Hone has vLLM."""
    return importlib.util.find_spec("vllm") is not None
