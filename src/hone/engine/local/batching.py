"""Plan micro-batches of samples, and lay them out as the tensors that a model reads.

A micro-batch is a list of rows, and a row is a list of samples. There are three layouts. Padded: one sample in each
row. Packed: one row of several samples that do not attend to each other. Shared prefix: the samples of a row are
completions of one prompt, which is computed once; each completion attends to the prompt and to itself. In GRPO this
computes a prompt once instead of once for each completion.

Samples of a unit (a pair's two sides) stay together. The plan consists of `MicroBatchUnit`s: each has the samples of
one unit, or those of several units with a shared prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hone.config.schema import ModelConfig
from hone.data import packing
from hone.model.counter_rng import counted, key_of
from hone.types import Batch, Sample, Totals

Rows = list[list[int]]
LONGEST_SHARED = 4096
"""Maximum tokens of a row with a shared prompt: its mask is dense, so attention also computes masked positions."""
WORTH_SHARING = 0.8
"""A prompt is shared only if at most this fraction of the tokens, padding included, is then computed."""


@dataclass
class MicroBatch:
    """The tensors of one micro-batch. Target n is `batch.tokens_N[n]`, predicted at position `positions_N[n]` of the
    flattened `input_ids` [B, T].

    `attention_mask` [B, 1, T, T] is given where causality and `position_ids` are not enough.
    """

    input_ids: Tensor
    position_ids: Tensor | None
    attention_mask: Tensor | None
    positions_N: Tensor
    batch: Batch
    copies: Tensor
    """[B, T] the number of samples that each token belongs to: several in a shared prompt, 0 in padding."""
    keys: Tensor | None = None
    """[B, T] the random key of each token for dropout: the same in every layout."""


@dataclass
class MicroBatchUnit:
    """Rows that must be in one micro-batch: those of one unit, or one row of several units with a shared prompt."""

    rows: Rows
    units: int = 1


def count_totals(samples: Sequence[Sample]) -> Totals:
    """The denominators of a global batch, counted before any forward."""
    counts = [sample.num_targets for sample in samples]
    columns = {name for sample in samples for name in sample.sequence_columns}
    return Totals(
        tokens=float(sum(counts)),
        sequences=float(sum(count > 0 for count in counts)),
        sums={
            name: math.fsum(s.sequence_columns.get(name, 0.0) for s in samples) for name in sorted(columns)
        },
    )


def units_of(samples: Sequence[Sample]) -> Rows:
    """The indices of each unit's samples, in order."""
    units: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        units.setdefault(sample.unit or f"\0{index}", []).append(index)
    return list(units.values())


def plan(samples: Sequence[Sample], policy: ModelConfig, *, training: bool, share: bool) -> list[Rows]:
    """The rows of each micro-batch. The plan affects speed and memory, and the result only by rounding."""
    units = units_of(samples)
    pack, dynamic = policy.sequence_packing, policy.dynamic_batching
    if pack.enabled:
        lengths = [sum(len(samples[index]) for index in unit) for unit in units]
        rows = packing.packed(lengths, pack.train_mb_tokens if training else pack.logprob_mb_tokens)
        return [[[index for unit in row for index in units[unit]]] for row in rows]
    size = (policy.train_micro_batch_size if training else policy.logprob_batch_size) or 1
    budget = dynamic.train_mb_tokens if training else dynamic.logprob_mb_tokens

    def laid_out(atoms: Sequence[MicroBatchUnit]) -> list[Rows]:
        lengths = [max(row_length(samples, row) for row in atom.rows) for atom in atoms]
        if dynamic.enabled:
            rows_of = [len(atom.rows) for atom in atoms]
            micros = packing.by_tokens(lengths, budget, dynamic.sequence_length_round, rows_of)
        else:
            micros = packing.fixed(lengths, max(1, size // max((atom.units for atom in atoms), default=1)))
        return [[row for number in micro for row in atoms[number].rows] for micro in micros]

    apart = laid_out([MicroBatchUnit([[index] for index in unit]) for unit in units])
    if not share:
        return apart
    most = len(units) if dynamic.enabled else size
    together = laid_out(shared_prefix_units(samples, units, most, min(budget, LONGEST_SHARED)))
    return together if padded(samples, together) <= WORTH_SHARING * padded(samples, apart) else apart


def padded(samples: Sequence[Sample], micros: Sequence[Rows]) -> int:
    """Tokens that a plan computes, padding included."""
    return sum(len(rows) * max(row_length(samples, row) for row in rows) for rows in micros)


def plan_per_rank(
    samples: Sequence[Sample], policy: ModelConfig, count: int, *, training: bool, share: bool
) -> list[list[Rows]]:
    """The plan of each of `count` ranks. Costs are about equal, and lengths are equal, since collectives need the same
    number of forwards on every rank: a shorter plan ends with micro-batches without rows."""
    if count == 1:
        return [plan(samples, policy, training=training, share=share)]
    parts = [[unit] for unit in units_of(samples)]
    if share and len(groups := _groups(samples)) >= count:
        parts = groups
    plans = []
    for chosen in packing.balanced([_cost(samples, part, share) for part in parts], count):
        own = sorted(index for number in chosen for unit in parts[number] for index in unit)
        micros = plan([samples[i] for i in own], policy, training=training, share=share) if own else []
        plans.append([[[own[index] for index in row] for row in rows] for rows in micros])
    longest = max(map(len, plans))
    return [micros + [[] for _ in range(longest - len(micros))] for micros in plans]


def dummy_samples(samples: Sequence[Sample]) -> list[Sample]:
    """The samples that a rank without work computes: those of the shortest unit, without targets and with weight 0."""
    unit = min(units_of(samples), key=lambda unit: sum(len(samples[index]) for index in unit))
    return [
        replace(
            samples[index],
            loss_mask_T=torch.zeros_like(samples[index].loss_mask_T),
            token_columns={name: column[:0] for name, column in samples[index].token_columns.items()},
            sequence_columns=dict.fromkeys(samples[index].sequence_columns, 0.0),
            prefix=0,
        )
        for index in unit
    ]


def _group(samples: Sequence[Sample], unit: Sequence[int]) -> str | None:
    """The group whose prompt all samples of a unit share; None if they share none."""
    group = samples[unit[0]].group
    alike = all(samples[index].prefix and samples[index].group == group for index in unit)
    return group if alike else None


def _groups(samples: Sequence[Sample]) -> list[Rows]:
    """The units of each group. A unit without a shared prompt is a group of its own."""
    groups: dict[str, Rows] = {}
    for unit in units_of(samples):
        group = _group(samples, unit)
        groups.setdefault(f"\0{unit[0]}" if group is None else group, []).append(unit)
    return list(groups.values())


def _cost(samples: Sequence[Sample], part: Rows, share: bool) -> int:
    """The number of tokens to compute for some units of one group."""
    indices = [index for unit in part for index in unit]
    if share and _group(samples, indices) is not None:
        return row_length(samples, indices)
    return sum(len(samples[index]) for index in indices)


def shared_prefix_units(
    samples: Sequence[Sample], units: Rows, most: int, tokens: int
) -> list[MicroBatchUnit]:
    """Combine units with a shared prompt in one row, up to `most` units and `tokens` tokens in each row."""
    atoms: list[MicroBatchUnit] = []
    open_units: dict[str, MicroBatchUnit] = {}
    for unit in units:
        group = _group(samples, unit)
        if group is None or row_length(samples, unit) > tokens:
            atoms.append(MicroBatchUnit([[index] for index in unit]))
            continue
        atom = open_units.get(group, MicroBatchUnit([[]], most))  # full: none is open
        joined = [*atom.rows[0], *unit]
        if atom.units >= most or row_length(samples, joined) > tokens:
            atom = open_units[group] = MicroBatchUnit([list(unit)])
            atoms.append(atom)
        else:
            atom.rows, atom.units = [joined], atom.units + 1
    return atoms


def row_length(samples: Sequence[Sample], row: Sequence[int]) -> int:
    """The number of tokens of a row; the samples' common prompt is counted once."""
    return samples[row[0]].prefix + sum(len(samples[index]) - samples[index].prefix for index in row)


def collate(
    rows: Sequence[Sequence[Sample]],
    *,
    pad: int,
    device: torch.device,
    share: bool,
    round_to: int = 1,
    seed: int | None = None,
) -> MicroBatch:
    """Lay rows of samples out, right-padded to a multiple of `round_to`.

    With `share`, the samples of a row follow one shared prompt, as `plan` arranged them; otherwise they are packed.
    With a `seed`, tokens get random keys for dropout.
    """
    samples = [sample for row in rows for sample in row]
    laid_out = [_lay_out(row, share and len(row) > 1) for row in rows]
    width = -(-max(row.tokens.numel() for row in laid_out) // round_to) * round_to
    input_ids = torch.full((len(rows), width), pad)
    positions = torch.arange(width).repeat(len(rows), 1)
    segments = torch.full((len(rows), width), -1)
    for number, row in enumerate(laid_out):
        length = row.tokens.numel()
        input_ids[number, :length] = row.tokens
        positions[number, :length] = row.positions
        segments[number, :length] = row.segments
    where = [place + number * width for number, row in enumerate(laid_out) for place in row.where]
    is_packed = any(len(row) > 1 for row in rows)
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
    positions_N = torch.cat([place[target - 1] for target, place in zip(targets, where, strict=True)])
    return MicroBatch(
        input_ids=input_ids.to(device),
        position_ids=positions.to(device) if is_packed else None,
        attention_mask=_mask(segments).to(device) if share and is_packed else None,
        positions_N=positions_N.to(device),
        batch=batch,
        copies=torch.bincount(torch.cat(where), minlength=input_ids.numel())
        .reshape(input_ids.shape)
        .to(device),
        keys=None if seed is None else _keys(rows, where, input_ids.shape, seed).to(device),
    )


def _keys(rows: Sequence[Sequence[Sample]], where: Sequence[Tensor], shape: torch.Size, seed: int) -> Tensor:
    """[B, T] keys from a sample's id and the token's position; in a shared prompt, from the group's id."""
    keys = torch.zeros(shape.numel(), dtype=torch.long)
    for sample, at in zip((sample for row in rows for sample in row), where, strict=True):
        positions = torch.arange(len(sample))
        prompt, own = key_of(seed, "", sample.group), key_of(seed, sample.id)
        keys[at[: sample.prefix]] = counted(prompt, positions[: sample.prefix])
        keys[at[sample.prefix :]] = counted(own, positions[sample.prefix :])
    return keys.reshape(shape)


@dataclass
class _RowLayout:
    """One row: the tokens, their positions, the number of each token's sample (0: the shared prompt), and the indices
    of each sample's tokens in the row."""

    tokens: Tensor
    positions: Tensor
    segments: Tensor
    where: list[Tensor]


def _lay_out(row: Sequence[Sample], share: bool) -> _RowLayout:
    prefix = row[0].prefix if share else 0
    tokens, positions = [row[0].tokens_T[:prefix]], [torch.arange(prefix)]
    segments, where = [torch.zeros(prefix, dtype=torch.long)], []
    start = prefix
    for number, sample in enumerate(row, start=1):
        own = len(sample) - prefix
        tokens.append(sample.tokens_T[prefix:])
        positions.append(torch.arange(prefix, prefix + own))
        segments.append(torch.full((own,), number))
        where.append(torch.cat([torch.arange(prefix), torch.arange(start, start + own)]))
        start += own
    return _RowLayout(torch.cat(tokens), torch.cat(positions), torch.cat(segments), where)


def _mask(segments: Tensor) -> Tensor:
    """[B, T] -> [B, 1, T, T]: a token attends to earlier tokens of its own sample and of the shared prompt."""
    key, query = segments[:, None, :], segments[:, :, None]
    return (((key == query) | (key == 0)).tril())[:, None]
