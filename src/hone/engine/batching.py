"""From samples to micro-batches: which samples go together, and the tensors that a model reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hone.config.schema import PolicyConfig
from hone.data import packing
from hone.types import Batch, Sample, Totals


@dataclass
class MicroBatch:
    """`input_ids` [B, T]; target n is token `batch.tokens_N[n]`, predicted from flat position `at_N[n]` of it."""

    input_ids: Tensor
    position_ids: Tensor | None
    at_N: Tensor
    batch: Batch


def totals_of(samples: Sequence[Sample]) -> Totals:
    """The denominators of a global batch, counted before any of it is computed."""
    counts = [sample.num_targets for sample in samples]
    return Totals(tokens=float(sum(counts)), sequences=float(sum(count > 0 for count in counts)))


def plan(samples: Sequence[Sample], policy: PolicyConfig, *, training: bool) -> list[list[int]]:
    """Which samples share a micro-batch. Changes speed and memory, never the result (beyond rounding)."""
    lengths = [len(sample) for sample in samples]
    pack, dynamic = policy.sequence_packing, policy.dynamic_batching
    if pack.enabled:
        return packing.packed(lengths, pack.train_mb_tokens if training else pack.logprob_mb_tokens)
    if dynamic.enabled:
        budget = dynamic.train_mb_tokens if training else dynamic.logprob_mb_tokens
        return packing.by_tokens(lengths, budget, round_to=dynamic.sequence_length_round)
    return packing.fixed(lengths, policy.train_micro_batch_size if training else policy.logprob_batch_size)


def collate(
    samples: Sequence[Sample], *, packed: bool, pad: int, device: torch.device, round_to: int = 1
) -> MicroBatch:
    """Lay samples out in rows, right-padded to a multiple of `round_to`; or, `packed`, end to end in one row, with
    positions that start again at each."""
    lengths = [len(sample) for sample in samples]
    if packed:
        input_ids = torch.cat([sample.tokens_T for sample in samples])[None]
        position_ids = torch.cat([torch.arange(length) for length in lengths])[None]
        starts = [sum(lengths[:i]) for i in range(len(lengths))]
    else:
        width = -(-max(lengths) // round_to) * round_to
        input_ids = torch.full((len(samples), width), pad, dtype=torch.long)
        for row, sample in enumerate(samples):
            input_ids[row, : lengths[row]] = sample.tokens_T
        position_ids = None
        starts = [row * width for row in range(len(samples))]
    targets = [sample.loss_mask_T.nonzero().squeeze(1) for sample in samples]
    counts = torch.tensor([target.numel() for target in targets])
    batch = Batch(
        ids=[sample.id for sample in samples],
        tokens_N=torch.cat([s.tokens_T[t] for s, t in zip(samples, targets, strict=True)]).to(device),
        sequence_N=torch.repeat_interleave(torch.arange(len(samples)), counts).to(device),
        lengths_S=counts.to(device),
        token_columns={
            name: torch.cat([sample.token_columns[name] for sample in samples]).to(device)
            for name in samples[0].token_columns
        },
        sequence_columns={
            name: torch.tensor([sample.sequence_columns[name] for sample in samples], device=device)
            for name in samples[0].sequence_columns
        },
    )
    at_N = torch.cat([target + (start - 1) for target, start in zip(targets, starts, strict=True)])
    return MicroBatch(
        input_ids=input_ids.to(device),
        position_ids=None if position_ids is None else position_ids.to(device),
        at_N=at_N.to(device),
        batch=batch,
    )
