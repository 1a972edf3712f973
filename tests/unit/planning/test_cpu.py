"""A built-in generator on a CPU computes in fp32 where the CPU would emulate the run's number format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny import CONFIGS, grpo_config

from hone.model.model_size import model_size_of
from hone.planning.cpu import generator_precision, is_emulated
from hone.planning.memory_estimate import Settings, estimate_memory, generator_bytes
from hone.planning.parallel_dims import ParallelDims
from hone.planning.placement import placement_notices


@pytest.fixture(params=["avx512", "avx512_bf16", "arm"])
def cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    found: dict[str, Any] = {"architecture": "aarch64" if request.param == "arm" else "x86_64"}
    found["avx512_bf16"] = request.param == "avx512_bf16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    is_emulated.cache_clear()
    yield request.param
    is_emulated.cache_clear()


def test_bf16_is_emulated_by_an_x86_cpu_without_its_instructions(cpu: str) -> None:
    assert is_emulated("bfloat16") == (cpu == "avx512")
    assert is_emulated("float16") == (cpu != "arm")
    assert not is_emulated("float32")
    assert generator_precision("bfloat16", on_cpu=True) == ("float32" if cpu == "avx512" else "bfloat16")
    assert generator_precision("bfloat16", on_cpu=False) == "bfloat16"


def test_the_run_says_what_the_generator_computes_in(cpu: str) -> None:
    config = grpo_config(policy={"precision": "bfloat16"})
    config.cluster.gpus_per_node = 0
    said = [notice for notice in placement_notices(config) if "policy.precision=bfloat16" in notice]
    assert len(said) == (cpu == "avx512")


def test_what_a_cpu_generates_from_is_in_the_estimate(cpu: str) -> None:
    size = 4 if cpu == "avx512" else 2
    config = grpo_config(policy={"precision": "bfloat16"})
    small, large = (
        model_size_of(CONFIGS["llama"](**change)) for change in ({}, {"hidden_size": 640, "vocab_size": 9000})
    )
    one, two = ParallelDims(), ParallelDims(per_node=2, shard=2)
    assert estimate_memory(small, config, two, Settings(1), on_cpu=True).generator == size * small.parameters
    assert estimate_memory(small, config, one, Settings(1), on_cpu=True).transposed == 0
    held = estimate_memory(large, config, one, Settings(1), on_cpu=True)
    assert held.transposed == 4 * (large.parameters - large.embedding)
    assert held.peak >= held.resident + held.cache + held.transposed
    weights, _ = generator_bytes(large, config, on_cpu=True)
    assert weights == size * large.parameters + held.transposed
    assert generator_bytes(large, config)[0] == 2 * large.parameters
