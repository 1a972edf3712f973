"""How the built-in generator computes on a CPU: in which number format, and from which copies of the weights."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from hone.config.schema.base import Precision
from hone.model.model_size import ModelSize

INSTRUCTIONS = {"bfloat16": ("avx512_bf16", "amx_bf16"), "float16": ("avx512_fp16", "amx_fp16")}
TRANSPOSED_FROM = 10_000_000
"""Parameters of the smallest model whose matrices are copied for decoding. Smaller ones stay in the caches."""


@cache
def is_emulated(precision: Precision) -> bool:
    """Whether this x86 CPU has no instructions for a format, so that every product converts to fp32 and back.

    SmolLM2-135M in emulated bf16 takes 2 to 4 times the time of fp32 (benchmarks/RESULTS.md).
    """
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # PyTorch 2.10 and later
    wanted = INSTRUCTIONS.get(precision, ())
    on_x86 = capabilities.get("architecture") == "x86_64"
    return bool(wanted) and on_x86 and not any(capabilities.get(name) for name in wanted)


def generator_precision(precision: Precision, *, on_cpu: bool) -> Precision:
    """The format that the built-in generator computes in: the run's, but fp32 where a CPU would emulate it."""
    return "float32" if on_cpu and is_emulated(precision) else precision


def transposed_bytes(model: ModelSize) -> int:
    """Copies of the matrices that a CPU decodes from in fp32, the output layer's included (decoding_layout.py)."""
    matrices = model.parameters - (0 if model.tied else model.embedding)
    return 4 * matrices if model.parameters >= TRANSPOSED_FROM else 0
