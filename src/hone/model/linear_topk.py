"""The k most likely tokens of a linear head and their log-probabilities, without the logits of all rows at once.

Shapes in docstrings: N rows, H hidden, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from hone.model.linear_logprobs import CHUNK_ELEMENTS, VocabularyShard
from hone.model.tiles import even

Best = tuple[Tensor, Tensor, Tensor]
"""Logits [N, k] and tokens [N, k] of the most likely, in order, and the logsumexp of all logits [N]."""


@torch.no_grad()
def linear_topk(
    hidden: Tensor,
    weight: Tensor,
    k: int,
    *,
    temperature: float = 1.0,
    vocabulary: VocabularyShard | None = None,
) -> tuple[Tensor, Tensor]:
    """The `k` largest of log softmax(hidden @ weight.T / temperature), [N, H] and [V, H], and their tokens: [N, k].

    Most likely first. With `vocabulary`, `weight` is a shard of the head; all ranks of its group call this with the
    same input and get the same result."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        hidden = hidden.to(torch.get_autocast_dtype(device))
    weight = weight.to(hidden.dtype)
    first = vocabulary.start if vocabulary is not None else 0
    rows = list(even(len(hidden), max(1, CHUNK_ELEMENTS // max(1, len(weight)))))
    parts = [_best(hidden[block], weight, k, temperature, first) for block in rows]
    if not parts:
        return hidden.new_zeros(0, k, dtype=torch.float32), hidden.new_zeros(0, k, dtype=torch.long)
    logits, tokens, normaliser = (torch.cat(column) for column in zip(*parts, strict=True))
    if vocabulary is not None:
        logits, tokens, normaliser = _over_the_group((logits, tokens, normaliser), vocabulary.group, k)
    return logits - normaliser[:, None], tokens


def _best(hidden: Tensor, weight: Tensor, k: int, temperature: float, first: int) -> Best:
    """Of one block of rows. A shard with fewer than `k` columns is padded with log-probabilities of -inf."""
    logits = (hidden @ weight.t()).float() / temperature
    found = logits.topk(min(k, len(weight)), dim=-1)
    missing = k - found.values.shape[1]
    values = torch.nn.functional.pad(found.values, (0, missing), value=-torch.inf)
    tokens = torch.nn.functional.pad(found.indices + first, (0, missing))
    return values, tokens, logits.logsumexp(-1)


def _over_the_group(own: Best, group: dist.ProcessGroup, k: int) -> Best:
    """The best of all shards, combined by every rank in the same order."""
    count = dist.get_world_size(group)
    gathered: list[Tensor] = []
    for part in own:
        parts = [torch.empty_like(part) for _ in range(count)]
        dist.all_gather(parts, part.contiguous(), group=group)
        gathered.append(torch.stack(parts, 1))
    logits, tokens = gathered[0].flatten(1), gathered[1].flatten(1)
    best = logits.topk(k, dim=-1)
    return best.values, tokens.gather(1, best.indices), gathered[2].logsumexp(1)
