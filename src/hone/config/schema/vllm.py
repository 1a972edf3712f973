"""Settings of vLLM as the generator."""

from __future__ import annotations

import importlib.util
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field

from hone.config.schema.base import ConfigModel


def _urls(value: Any) -> Any:
    """One URL or several, without a slash at the end. Raises ValueError for what is no URL of a server."""
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(url, str) for url in given):
        return given
    for url in given:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
            raise ValueError(f"{url!r} is not the URL of a server, such as http://localhost:8000")
    found = [url.rstrip("/") for url in given]
    if len(set(found)) < len(found):
        raise ValueError("a server is named twice")
    return found


class VLLMConfig(ConfigModel):
    """vLLM as the generator (`backend: vllm`)."""

    server_urls: Annotated[list[str], BeforeValidator(_urls)] = Field(default_factory=list)
    """Servers that run already, such as `[http://localhost:8000]`; empty: the run starts its own."""
    server_timeout_s: float = Field(240.0, ge=0)
    """How long a server of `server_urls` that is lost in the middle of a run may take to answer again."""
    tensor_parallel_size: int = Field(1, ge=1)
    """GPUs that share each layer of one server."""
    gpu_memory_utilization: float = Field(0.6, gt=0, le=1)
    """Share of a GPU's memory that the server takes for weights and cache."""
    enforce_eager: bool = False
    """Without CUDA graphs: starts sooner, generates slower."""
    sleep_level: Literal[0, 1, 2] = 0
    """1: while the learner trains on the same GPUs, a server that the run starts keeps its weights in host memory and
    has no cache. 2, which drops the weights, is refused: vLLM computes wrongly after it. 0: it stays awake."""
    start_timeout_s: float = Field(900.0, gt=0)
    """How long a server that the run starts may take."""


def vllm_is_installed() -> bool:
    """Whether the Python that runs Hone has vLLM."""
    return importlib.util.find_spec("vllm") is not None
