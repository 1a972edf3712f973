"""A model's weights by name, and a checksum over their bits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from hone.model.counter_rng import GOLDEN
from hone.model.quantized import is_quantized

FACTORS = (torch.arange(1, 4097) * GOLDEN >> 32).to(torch.int32) | 1
"""One factor for each position in a row of words; odd, so that no bit is lost."""
ROWS_AT_ONCE = 1024


def named_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and persistent buffers by name; a tensor with several names once, under the first."""
    once = {name for name, _ in model.named_parameters()}
    others = {name for name, _ in model.named_parameters(remove_duplicate=False)} - once
    for name, tensor in model.state_dict().items():
        if name not in others:
            yield name, tensor


def checkpointed_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The weights in a checkpoint: all; of a model with a 4-bit base, which is loaded from its source, the trained
    ones."""
    if not is_quantized(model):
        return named_weights(model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return ((name, tensor) for name, tensor in named_weights(model) if name in trained)


def checksum(weights: Iterable[tuple[str, Tensor]]) -> int:
    """A 64-bit checksum of all weights' bits and positions, the same on every device."""
    total = 0
    for index, (_, tensor) in enumerate(weights, start=1):
        total += (2 * index + 1) * _checksum_of(tensor)
    return total & 0xFFFF_FFFF_FFFF_FFFF


def _checksum_of(tensor: Tensor) -> int:
    """Rows of 32-bit words times odd factors, summed modulo 2^32; these sums times other factors, modulo 2^64."""
    raw = tensor.detach().contiguous().flatten().view(torch.uint8)
    words = raw.view(torch.int32) if raw.numel() % 4 == 0 else raw.to(torch.int32)
    factors = FACTORS.to(words.device)
    whole = words.numel() // len(FACTORS) * len(FACTORS)
    rows = words[:whole].reshape(-1, len(FACTORS)).split(ROWS_AT_ONCE)
    sums = [(part * factors).sum(1, dtype=torch.int64) for part in rows]
    rest = words[whole:]
    sums.append((rest * factors[: len(rest)]).sum(dtype=torch.int64)[None])
    sums_R = torch.cat(sums)
    return int((sums_R * ((torch.arange(len(sums_R), device=words.device) + 1) * GOLDEN | 1)).sum())


def tied_parameters(model: nn.Module) -> list[list[str]]:
    """The names of each parameter that has several (tied embeddings)."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [group for group in names.values() if len(group) > 1]


def tie(model: nn.Module, groups: list[list[str]]) -> None:
    """Tie the names of each group to the first one's parameter; moving a model to or from meta unties them."""
    for is_first, *others in groups:
        parameter = model.get_parameter(is_first)
        for name in others:
            module, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(module), attribute, parameter)
