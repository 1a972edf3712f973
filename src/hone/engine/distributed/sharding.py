"""Shard a model over the ranks of a mesh; only the first rank ever holds all weights.

The first rank reads the weights into host memory. Every rank creates the model without weights, shards it, and receives
its parts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from transformers import PreTrainedModel

from hone.model.capabilities import capabilities_of
from hone.model.mesh import Mesh
from hone.model.parallelize import parallelize
from hone.model.scorer import TokenScorer
from hone.model.weights import named_weights, tie, tied_parameters

FROM_FIRST = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


def shard_model(
    model_factory: Callable[[bool], PreTrainedModel],
    mesh: Mesh,
    device: torch.device,
    *,
    temperature: float,
    chunk_rows: int | None,
    vocabulary: int | None = None,
    sequence_parallel: bool = False,
    cpu_offload: bool = False,
) -> TokenScorer:
    """A scorer whose model is sharded over `mesh`.

    `model_factory(with_weights)` returns the model in host memory or, without weights, on the meta device. An exception
    on the first rank is raised on all ranks.
    """
    is_first = dist.get_rank() == 0
    model, failure = None, None
    weights: dict[str, Any] = {}
    buffers: dict[str, Tensor] = {}
    message: list[Any] = [None, None]
    if is_first:
        try:
            model = model_factory(True)
            message = [capabilities_of(model), None]
            weights, buffers = dict(named_weights(model)), dict(model.named_buffers())
        except Exception as error:  # sent to the other ranks, which would wait forever, and raised there
            failure, message = error, [None, error]
    dist.broadcast_object_list(message, src=0)
    capabilities, reported = message
    if reported is not None:
        raise failure or reported
    model = model if model is not None else model_factory(False)
    ties = tied_parameters(model)
    nn.Module.to(model, "meta")
    tie(model, ties)
    scorer = TokenScorer(
        model,
        temperature=temperature,
        chunk_rows=chunk_rows,
        vocabulary=vocabulary,
        known_capabilities=capabilities,
    )
    parallelize(scorer, mesh, sequence_parallel=sequence_parallel, cpu_offload=cpu_offload)
    scorer.to_empty(device="cpu" if cpu_offload else device)
    tie(model, ties)
    for module in model.modules():  # buffers are on the device even if the weights are offloaded
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty_like(buffer, device=device))
    for name, buffer in model.named_buffers():
        if is_first:
            buffer.copy_(buffers[name])
        dist.broadcast(buffer, src=0)
    if is_first:
        weights |= {name: weights[names[0]] for names in ties for name in names[1:]}
    set_model_state_dict(model, weights, options=FROM_FIRST)
    return scorer


def unsharded_copy(empty: PreTrainedModel, like: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """An unsharded model for sampling on one device, made of `empty` (on the meta device).

    It has memory for its weights, which are received later, and the buffers of the sharded model `like`.
    """
    ties = tied_parameters(empty)
    empty.to_empty(device=device)
    tie(empty, ties)
    buffers = dict(like.named_buffers())
    for name, buffer in empty.named_buffers():
        buffer.copy_(buffers[name])
    return empty.requires_grad_(False).eval()
