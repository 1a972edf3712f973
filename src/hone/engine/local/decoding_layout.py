"""Weights laid out for decoding on a CPU.

A linear layer keeps its matrix as [outputs, inputs], which a product with few rows reads slowly: MKL first copies it
into blocks. The transposed layout is read as it is. SmolLM2-135M on 2 cores with AVX-512: all products of a token take
0.7 of the time at 8 rows, and 0.8 at 64 (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from hone.planning.cpu import TRANSPOSED_FROM

FEWEST_TOKENS = 32
"""Below so many tokens a row, the copy costs more time than the products save."""


def uses_copies(model: nn.Module) -> bool:
    """Whether a model's matrices are copied for decoding."""
    parameters = list(model.parameters())
    on_cpu = all(parameter.device.type == "cpu" for parameter in parameters)
    return on_cpu and sum(parameter.numel() for parameter in parameters) >= TRANSPOSED_FROM


@contextlib.contextmanager
def transposed_weights(model: nn.Module, tokens: int) -> Iterator[None]:
    """Give a model's linear layers transposed copies of their fp32 matrices until the block exits.

    For rows of up to `tokens` new tokens. The copies are made anew each time, so that they are never those of earlier
    weights. A layer's result may differ in rounding.
    """
    if tokens < FEWEST_TOKENS or not uses_copies(model):
        yield
        return
    layers = [
        layer for layer in model.modules() if type(layer) is nn.Linear and layer.weight.dtype == torch.float32
    ]
    own = [layer.weight for layer in layers]
    try:
        for layer, weight in zip(layers, own, strict=True):
            copy = weight.detach().t().contiguous().t()
            layer.weight = nn.Parameter(copy, requires_grad=False)
        yield
    finally:
        for layer, weight in zip(layers, own, strict=True):
            layer.weight = weight
