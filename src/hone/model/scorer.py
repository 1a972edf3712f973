"""A model's log-probabilities, or values, at chosen positions, on any mesh.

Shapes: `_N` chosen positions of a forward, `_NK` K tokens at each; B rows and T tokens of a row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, Shard
from transformers import PreTrainedModel

from hone.model import capabilities, scalar_head
from hone.model.linear_logprobs import VocabularyShard, linear_logprobs
from hone.model.linear_topk import linear_topk
from hone.model.mesh import Mesh


@dataclass(frozen=True)
class ScoreRequest:
    """Rows of tokens, and what to compute at some of their positions.

    Rows are right-padded, or, with `position_ids` that start again at 0, hold several sequences that do not attend to
    each other. T must be a multiple of `TokenScorer.divides`."""

    input_ids: Tensor
    """[B, T]"""
    positions_N: Tensor
    """Flat positions in `input_ids`, after which the distributions are computed."""
    targets_N: Tensor
    """The token whose log-probability is asked for."""
    position_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    """[B, 1, T, T], True: attends. Replaces the mask that follows from `position_ids`."""
    candidates_NK: Tensor | None = None
    """Further tokens at each position."""
    entropy: bool = False
    topk: int = 0
    """Number of most likely tokens to compute in place of targets, without gradient."""

    @property
    def all_targets(self) -> Tensor:
        """[N], or [N, 1 + K] with the candidates."""
        if self.candidates_NK is None:
            return self.targets_N
        return torch.cat([self.targets_N[:, None], self.candidates_NK], 1)


class ScoreResult(NamedTuple):
    """What was requested, in fp32; the rest is None. A tuple, in which FSDP finds the tensors."""

    logprobs_N: Tensor | None = None
    values_N: Tensor | None = None
    """From a scalar head, in place of log-probabilities."""
    entropy_N: Tensor | None = None
    candidate_logprobs_NK: Tensor | None = None
    topk_logprobs_NK: Tensor | None = None
    topk_tokens_NK: Tensor | None = None


class TokenScorer(nn.Module):
    """Holds the model. Where its logits are a plain linear map of its last hidden states (checked once, by comparing
    with the model's own), `linear_logprobs` is used. Any other head (soft-capped, scaled) goes through the model's own
    logits. A model with a scalar head gives its values in their place.

    `known_capabilities`: for a model whose weights are not there to test; None: each is tested when it is needed.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        temperature: float = 1.0,
        chunk_rows: int | None = None,
        vocabulary: int | None = None,
        known_capabilities: capabilities.Capabilities | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature if temperature > 0 else 1.0
        self.chunk_rows = chunk_rows
        self.known_capabilities = known_capabilities
        self.mesh: Mesh | None = None
        """Set when the model is spread over ranks (`hone.model.parallelize`), as is `sequence_parallel`."""
        self.sequence_parallel = False
        self.vocabulary = vocabulary
        """Number of tokens of the top-k distribution; tokens from it on get no probability."""
        self.scalar = scalar_head.is_scalar(model)
        if known_capabilities is None:
            capabilities.check_causal(model)
            self.plain_head = capabilities.head_is_plain(model)
        else:
            self.plain_head = known_capabilities.head_is_plain

    @cached_property
    def supports_packing(self) -> bool:
        """Whether sequences packed into one row do not affect each other."""
        known = self.known_capabilities
        return capabilities.supports_packing(self.model) if known is None else known.supports_packing

    @cached_property
    def supports_shared_prefix(self) -> bool:
        """Whether completions may be laid out in one row behind a shared prompt."""
        if (known := self.known_capabilities) is not None:
            return known.supports_shared_prefix
        return capabilities.supports_shared_prefix(self.model)

    @property
    def device(self) -> torch.device:
        """The device of the computation; with CPU offload the weights are elsewhere."""
        if self.mesh is None or self.mesh.weights.device_type == "cpu":
            return self.model.device
        return torch.device(self.mesh.weights.device_type, torch.cuda.current_device())

    @property
    def divides(self) -> int:
        """What the length of a row must be a multiple of."""
        if self.mesh is None:
            return 1
        return self.mesh.size("context") * (self.mesh.size("tensor") if self.sequence_parallel else 1)

    def forward(self, request: ScoreRequest) -> ScoreResult:
        """Compute the request. On a mesh every rank is given whole rows and returns all of [N]."""
        if self.mesh is not None and self.mesh.size("context") > 1:
            return self._result(self._by_parts(request), request)
        positions, mask = request.position_ids, request.attention_mask
        if self.sequence_parallel:  # the model would count positions in its part of the tokens
            length = request.input_ids.shape[1]
            if positions is not None and mask is None:
                mask = visible(positions, 0, length)
            if positions is None:
                positions = torch.arange(length, device=request.input_ids.device)[None]
        placed = replace(request, position_ids=positions, attention_mask=mask)
        return self._result(self._read(placed), request)

    def _result(self, read: Tensor, request: ScoreRequest) -> ScoreResult:
        """The columns of what was read (`_read`), by name."""
        if self.scalar:
            return ScoreResult(values_N=read)
        if k := request.topk:
            return ScoreResult(topk_logprobs_NK=read[:, :k], topk_tokens_NK=read[:, k:].long())
        if read.dim() == 1:
            return ScoreResult(logprobs_N=read)
        end = read.shape[1] - request.entropy
        return ScoreResult(
            logprobs_N=read[:, 0],
            entropy_N=read[:, end] if request.entropy else None,
            candidate_logprobs_NK=read[:, 1:end] if request.candidates_NK is not None else None,
        )

    def _read(self, request: ScoreRequest) -> Tensor:
        """Values [N]; or log-probabilities of the targets [N], or [N, 1 + K] with candidates, and a last column of
        entropies; or the k largest log-probabilities and behind them their tokens [N, 2k]."""
        k, entropy, targets_N = request.topk, request.entropy, request.all_targets
        inputs = (request.input_ids, request.position_ids, request.attention_mask)
        if not self.plain_head and not self.scalar:
            ids, positions, mask = inputs
            read = {"position_ids": positions, "attention_mask": mask, "use_cache": False}
            logits = self.model(input_ids=ids, **read).logits
            logits = logits.flatten(0, 1)[request.positions_N].float() / self.temperature
            if k:
                return _side_by_side(*logits[:, : self.vocabulary].log_softmax(-1).topk(k, dim=-1))
            logprobs = logits.log_softmax(-1)
            found = logprobs.gather(1, targets_N if targets_N.dim() == 2 else targets_N[:, None])
            if not entropy:
                return found.reshape(targets_N.shape)
            return torch.cat([found, -(logprobs.exp() * logprobs).sum(-1, keepdim=True)], 1)
        hidden = capabilities.hidden_states(self.model, *inputs)
        if self.sequence_parallel:
            assert self.mesh is not None
            parts = DTensor.from_local(hidden, self.mesh.weights["tensor"], [Shard(1)])
            hidden = parts.redistribute(placements=[Replicate()]).to_local()
        if self.scalar:
            return scalar_head.values(self.model, hidden.flatten(0, 1)[request.positions_N])
        weight, vocabulary = self.model.get_output_embeddings().weight, None
        if isinstance(weight, DTensor):
            vocabulary = VocabularyShard(weight.device_mesh.get_group(), _first_row(weight))
            weight = weight.to_local()
        hidden, temperature = hidden.flatten(0, 1)[request.positions_N], self.temperature
        if k:
            if self.vocabulary is not None:
                first = vocabulary.start if vocabulary is not None else 0
                weight = weight[: max(0, self.vocabulary - first)]
            best = linear_topk(hidden, weight, k, temperature=temperature, vocabulary=vocabulary)
            return _side_by_side(*best)
        return linear_logprobs(
            hidden,
            weight,
            targets_N,
            temperature=temperature,
            chunk_rows=self.chunk_rows,
            vocabulary=vocabulary,
            entropy=entropy,
        )

    def _by_parts(self, request: ScoreRequest) -> Tensor:
        """`_read` on this context rank's part of every row, all-reduced over the context ranks."""
        assert self.mesh is not None
        ids, position_ids, mask = request.input_ids, request.position_ids, request.attention_mask
        length = ids.shape[1]
        width = length // self.mesh.size("context")
        start = self.mesh.rank("context") * width
        own = slice(start, start + width)
        if position_ids is None:
            position_ids = torch.arange(length, device=ids.device).expand_as(ids)
        mask = visible(position_ids, start, start + width) if mask is None else mask[:, :, own]
        column_N = request.positions_N % length
        mine_N = (column_N >= start) & (column_N < start + width)
        candidates = request.candidates_NK
        part = replace(
            request,
            input_ids=ids[:, own],
            position_ids=position_ids[:, own],
            attention_mask=mask,
            positions_N=(request.positions_N // length * width + column_N - start)[mine_N],
            targets_N=request.targets_N[mine_N],
            candidates_NK=None if candidates is None else candidates[mine_N],
        )
        return _PutTogether.apply(self._read(part), mine_N, self.mesh.group("context"))


def present(tensor: Tensor | None) -> Tensor:
    """A field of a result that was requested."""
    assert tensor is not None
    return tensor


def visible(position_ids: Tensor, start: int, end: int) -> Tensor:
    """The mask of tokens [start, end) of each row: they attend to previous tokens of their sequence, which starts at
    position 0.

    [B, T] -> [B, 1, end - start, T], True: attends.
    """
    length = position_ids.shape[1]
    sequence = (position_ids == 0).cumsum(1)
    at = torch.arange(length, device=position_ids.device)
    before = at[None, :] <= at[start:end, None]
    return (before[None] & (sequence[:, None, :] == sequence[:, start:end, None]))[:, None]


def _first_row(weight: DTensor) -> int:
    """Number of this rank's first row of a weight that is sharded by rows, as `torch.chunk` does."""
    ranks, rows = weight.device_mesh.size(), weight.shape[0]
    return min(rows, weight.device_mesh.get_local_rank() * -(-rows // ranks))


def _side_by_side(logprobs: Tensor, tokens: Tensor) -> Tensor:
    """One tensor of both: fp32 holds every number below 2^24, which no vocabulary reaches."""
    return torch.cat([logprobs, tokens.to(logprobs.dtype)], -1)


class _PutTogether(torch.autograd.Function):
    """Values at all ranks' targets in one tensor [N, ...]. Every rank computes the same loss from it, so that
    backward takes this rank's part and sums nothing."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, mine_N: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.save_for_backward(mine_N)
        values_N = own.new_zeros(len(mine_N), *own.shape[1:])
        values_N[mine_N] = own
        dist.all_reduce(values_N, group=group)
        return values_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (mine_N,) = ctx.saved_tensors
        return grads[0][mine_N], None, None
