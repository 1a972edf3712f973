"""Log-probabilities of target tokens from a linear head, without the logits of all tokens at once.

Logits are computed in tiles ([rows, columns of the vocabulary]), whose memory is reused. Backward uses tiles that were
kept, up to `KEEP_ELEMENTS` and `KEEP_SHARE`, and recomputes the others: a fourth matrix product where full logits take
three, but on tiles in the cache, while full logits are read from and written to memory many times.

Tiles of the same columns are adjacent: the gradient of these rows of the weight is then complete, and the accumulator
is smaller than the weight.

If the head is sharded by the vocabulary, the ranks exchange three numbers per row, once, and one [N, H] gradient in
backward. Shapes in docstrings: N rows, H hidden, V vocabulary, K targets of a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from hone.model import linear_entropy
from hone.model.tiles import Tile, cut, spaces

CHUNK_ELEMENTS = 1 << 20
"""Logits computed at once on a CPU (4 MiB in fp32: in its cache, also where others use it)."""
ACCELERATOR_CHUNKS = 16
"""Tiles are larger by this on an accelerator, where each starts a dozen kernels."""
CHUNK_ROWS, ACCELERATOR_ROWS = 1024, 8192
"""Rows of a tile at most, on a CPU and on an accelerator."""
KEEP_ELEMENTS = 1 << 26
"""So many logits are kept for backward (256 MiB in fp32) and not computed again."""
KEEP_SHARE = 2 / 3
"""On a CPU at least this part of them is kept. A product is dear there, and no slower than the full logits is what it
takes in fp32; a fourth to a fifth of their memory is what it costs (in bf16 an eighth)."""


Sums = tuple[Tensor, Tensor, Tensor]
"""Of each row [N]: the largest logit, the sum of exponentials above it, and of those times their logarithms."""


@dataclass(frozen=True)
class VocabularyShard:
    """`weight` is rows [start, start + len(weight)) of a head whose other rows the other ranks of `group` hold.

    Shards may differ in size and may be empty.
    """

    group: dist.ProcessGroup
    start: int


@dataclass(frozen=True)
class _Options:
    temperature: float
    rows: int
    elements: int
    keep: int
    vocabulary: VocabularyShard | None
    entropy: bool = False

    def tiles(self, targets: Tensor, width: int) -> list[list[Tile]]:
        """The logits [targets, width of this rank's head] cut up."""
        shard = self.vocabulary
        return cut(targets, width, self.rows, self.elements, None if shard is None else shard.start)


class _LinearLogProbs(torch.autograd.Function):
    """log softmax(hidden @ weight.T / temperature)[targets] of each row of `hidden` [N, H]: of one target [N], or of K
    [N, K]. With `options.entropy` the entropy of that distribution is one column more."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, options: _Options) -> Tensor:
        shape, targets = targets.shape, targets if targets.dim() > 1 else targets[:, None]
        tiles = options.tiles(targets, weight.shape[0])
        picked = hidden.new_full(targets.shape, -math.inf, dtype=torch.float32)
        largest = picked.new_full((max(1, len(tiles)), len(targets)), -math.inf)
        totals, weighted = torch.zeros_like(largest), torch.zeros_like(largest)
        logits_space, exponentials_space = spaces(hidden, tiles)
        ctx.kept, left = [], options.keep
        for strip, of_strip in enumerate(tiles):
            for tile in of_strip:
                left -= tile.size
                space = hidden.new_empty(tile.size) if left >= 0 else logits_space
                logits = _logits(hidden, weight, tile, space)
                if left >= 0:
                    ctx.kept.append(logits)
                at = (tile.target_rows, tile.target_columns)
                picked[tile.rows].index_put_((tile.target_rows, tile.target_slots), logits[at].float())
                largest[strip, tile.rows] = logits.amax(-1).float()
                out = tile.shaped(exponentials_space)
                exponentials = _exponentials(logits, largest[strip, tile.rows], options, out)
                totals[strip, tile.rows] = exponentials.sum(-1)
                if options.entropy:
                    weighted[strip, tile.rows] = linear_entropy.weighted_sum(exponentials)
        sums = (
            _combined(largest, totals, weighted, options) if tiles else (largest[0], totals[0], weighted[0])
        )
        if options.vocabulary is not None:
            sums, picked = _over_the_group(sums, picked, options)
        most, logarithm = sums[0][:, None], sums[1].log()[:, None]
        ctx.tiles, ctx.options = tiles, options
        logprobs = (picked - most) / options.temperature - logarithm
        ctx.save_for_backward(hidden, weight, targets, *sums, logprobs)
        # The same, rounded once more where logsumexp rounds: mostly the bits of what other libraries compute.
        found = picked / options.temperature - (most / options.temperature + logarithm)
        if not options.entropy:
            return found.reshape(shape)
        return torch.cat([found, linear_entropy.entropy(*sums[1:])[:, None]], 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, largest, total, weighted, logprobs = ctx.saved_tensors
        options: _Options = ctx.options
        kept, ctx.kept = ctx.kept[::-1], []
        scaled = (
            grad.reshape(len(targets), targets.shape[1] + options.entropy) / options.temperature
        ).float()
        of_entropy = None
        if options.entropy:
            scaled, of_entropy = scaled[:, :-1], linear_entropy.factors(scaled[:, -1], total, weighted)
        at_targets = _at_targets(scaled, logprobs, targets)
        factors = -scaled.sum(1) / total
        grad_hidden = torch.zeros_like(hidden, dtype=torch.float32) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        logits_space, exponentials_space = spaces(hidden, ctx.tiles)
        for of_strip in ctx.tiles:
            columns = of_strip[0].columns
            part = grad_weight[columns] if grad_weight is not None else None
            if part is not None and len(of_strip) > 1:
                part = part.float()  # added up in fp32
            for tile in of_strip:
                rows, at = tile.rows, (tile.target_rows, tile.target_columns)
                logits = kept.pop() if kept else _logits(hidden, weight, tile, logits_space)
                exponentials = _exponentials(logits, largest[rows], options, tile.shaped(exponentials_space))
                more = None if of_entropy is None else linear_entropy.gradient(exponentials, of_entropy[rows])
                grad_logits = torch.mul(exponentials, factors[rows, None], out=logits)
                values = at_targets[rows][tile.target_rows, tile.target_slots]
                grad_logits.index_put_(at, values.to(grad_logits.dtype))
                if more is not None:
                    grad_logits += more
                if grad_hidden is not None:
                    _add_product(grad_hidden[rows], grad_logits, weight[columns])
                if part is not None:
                    _add_product(part, grad_logits.t(), hidden[rows])
            if grad_weight is not None and part is not None and part.dtype != grad_weight.dtype:
                grad_weight[columns] = part
        if grad_hidden is not None:
            if options.vocabulary is not None:
                dist.all_reduce(grad_hidden, group=options.vocabulary.group)
            grad_hidden = grad_hidden.to(hidden.dtype)
        return grad_hidden, grad_weight, None, None


def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    chunk_rows: int | None = None,
    vocabulary: VocabularyShard | None = None,
    entropy: bool = False,
) -> Tensor:
    """log softmax(hidden @ weight.T / temperature) at `targets`: [N, H], [V, H], [N] -> [N] in fp32.

    With `targets` [N, K] several of each row: [N, K]. They differ, but for the first of a row, which may
    be one of the others. With `entropy`, that of each row's whole distribution is one column more: [N, K + 1].

    Under autocast the products are in its precision, in backward too, where autocast itself is off: probabilities
    that are computed again are then those of the forward. `chunk_rows` bounds the rows computed at once, and keeps
    nothing for backward; None chooses.

    With `vocabulary`, `weight` [V of this rank, H] is a shard of the head. All ranks of its group call this with the
    same `hidden` and `targets` (which count over the whole head), get the same bits back, and send back the same
    gradient; that of `hidden` is then the whole one on every rank, that of `weight` its shard's.

    Raises IndexError where a target is none of the head's rows (not seen in a sharded head: -inf).
    """
    device = hidden.device.type
    on_cpu = device == "cpu"
    if torch.is_autocast_enabled(device):
        hidden = hidden.to(torch.get_autocast_dtype(device))
    keep = KEEP_ELEMENTS
    if on_cpu:
        keep = max(keep, round(KEEP_SHARE * hidden.shape[0] * weight.shape[0]))
    options = _Options(
        temperature=temperature,
        rows=chunk_rows or (CHUNK_ROWS if on_cpu else ACCELERATOR_ROWS),
        elements=CHUNK_ELEMENTS if on_cpu else CHUNK_ELEMENTS * ACCELERATOR_CHUNKS,
        keep=keep if torch.is_grad_enabled() and chunk_rows is None else 0,
        vocabulary=vocabulary,
        entropy=entropy,
    )
    return _LinearLogProbs.apply(hidden, weight.to(hidden.dtype), targets, options)


def _at_targets(grad: Tensor, logprobs: Tensor, targets: Tensor) -> Tensor:
    """The gradient of the logits at the targets, [N, K]: g - p sum(g), with g (1 - p) exact also where p is nearly 1.

    Where the first target is one of the others, too, both get the gradient of the two.
    """
    if targets.shape[1] > 1:
        same = targets[:, 1:] == targets[:, :1]
        first = grad[:, :1] + (grad[:, 1:] * same).sum(1, keepdim=True)
        others = grad.sum(1, keepdim=True)
        grad = torch.cat([first, torch.where(same, first, grad[:, 1:])], 1)
        return grad * -torch.expm1(logprobs) - logprobs.exp() * (others - grad)
    return grad * -torch.expm1(logprobs)


def _logits(hidden: Tensor, weight: Tensor, tile: Tile, space: Tensor) -> Tensor:
    return torch.mm(hidden[tile.rows], weight[tile.columns].t(), out=tile.shaped(space))


def _exponentials(logits: Tensor, largest: Tensor, options: _Options, out: Tensor) -> Tensor:
    """exp((logits - largest) / temperature) in fp32: at most 1, and exact at the top, where it matters.

    By exp2, which is three times as fast on a CPU.
    """
    return torch.sub(logits, largest[:, None], out=out).mul_(math.log2(math.e) / options.temperature).exp2_()


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _combined(largest: Tensor, totals: Tensor, weighted: Tensor, options: _Options) -> Sums:
    """Of parts [parts, N] of the vocabulary: the largest logit, the sum of exponentials e above it, and where entropies
    are asked for that of e log e (else zeros), all [N]."""
    most = largest.amax(0)
    below = (largest - most) / options.temperature
    scale = below.exp()
    if options.entropy:
        weighted = linear_entropy.moved(totals, weighted, below, scale).sum(0)
    else:
        weighted = torch.zeros_like(most)
    return most, scale.mul_(totals).sum(0), weighted


def _over_the_group(sums: Sums, picked: Tensor, options: _Options) -> tuple[Sums, Tensor]:
    """The same over all shards, and each target's logit [N, K], which only one shard has.

    Gathered and then combined by every rank in the same order: the same bits everywhere, whatever the library's
    order of adding.
    """
    assert options.vocabulary is not None
    group = options.vocabulary.group
    local = torch.cat([*(part[:, None] for part in sums), picked], 1)
    parts = [torch.empty_like(local) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, local, group=group)
    gathered = torch.stack(parts)
    sums = _combined(gathered[..., 0], gathered[..., 1], gathered[..., 2], options)
    return sums, gathered[..., 3:].amax(0)
