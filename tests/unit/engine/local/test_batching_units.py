"""A pair is never parted: in every layout its sides reach the loss together and in order; the result is the same."""

from __future__ import annotations

from functools import partial
from itertools import chain
from typing import Any

import pytest
import torch
from ranks import layout, on_ranks, spread_tiny
from tiny import PAD, VOCABULARY, gradients, largest_gap, make_model, run, sft_config
from torch.nn.functional import logsigmoid

from hone.data.packing import SampleTooLongError, by_tokens
from hone.engine.local.batching import (
    count_totals,
    dummy_samples,
    plan,
    plan_per_rank,
    row_length,
    shared_prefix_units,
    units_of,
)
from hone.engine.local.learner import LocalLearner
from hone.model.mesh import Mesh
from hone.types import Batch, LossOutput, Outputs, Sample, Totals

ADAMW = {"name": "torch.optim.AdamW", "kwargs": {"lr": 1e-3, "weight_decay": 0.01, "eps": 1e-4}}
LAYOUTS: dict[str, dict[str, Any]] = {
    "a pair at a time": {"train_micro_batch_size": 1},
    "three pairs at a time": {"train_micro_batch_size": 3},
    "by tokens": {"dynamic_batching": {"enabled": True, "train_mb_tokens": 96, "sequence_length_round": 8}},
    "packed": {"sequence_packing": {"enabled": True, "train_mb_tokens": 90}},
    "packed into one row": {"sequence_packing": {"enabled": True, "train_mb_tokens": 2000}},
}


def make_pairs(count: int, *, seed: int = 0, prompt: int = 12, share: bool = True) -> list[Sample]:
    """Chosen and rejected of ragged pairs with weights; `share` says what their prompts have in common."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for number in range(count):
        prompt_T = torch.randint(2, VOCABULARY, (prompt + number % 3,), generator=generator)
        for side in ("chosen", "rejected"):
            length = int(torch.randint(1, 9, (1,), generator=generator))
            tokens_T = torch.cat([prompt_T, torch.randint(2, VOCABULARY, (length,), generator=generator)])
            samples.append(
                Sample(
                    id=f"row{number}:{side}",
                    tokens_T=tokens_T,
                    loss_mask_T=torch.arange(len(tokens_T)) >= len(prompt_T),
                    sequence_columns={"weight": 0.25 + number % 4},
                    group=f"row{number}",
                    prefix=len(prompt_T) if share else 0,
                    unit=f"row{number}",
                )
            )
    return samples


def pair_loss(outputs: Outputs, batch: Batch, totals: Totals) -> LossOutput:
    """Weighted log-sigmoid of the difference between a pair's sides: wrong at once if they were parted or swapped."""
    assert [name.split(":")[1] for name in batch.ids] == ["chosen", "rejected"] * (batch.num_sequences // 2)
    assert all(
        a.split(":")[0] == b.split(":")[0] for a, b in zip(batch.ids[::2], batch.ids[1::2], strict=True)
    )
    logps_S = batch.sum_by_sequence(outputs.logprobs_N)
    weight = batch.sequence_columns["weight"][::2]
    losses = -logsigmoid(logps_S[::2] - logps_S[1::2]) * weight
    loss = losses.sum() / (totals.sums["weight"] / 2)
    return LossOutput(loss, {"weights": weight.sum()})


def trained(
    mesh: Mesh | None, policy: dict[str, Any], *, pairs: int = 7, share: bool = True, updates: int = 4
) -> Any:
    config = sft_config(**{"optimizer": ADAMW, **policy}).policy
    model = make_model() if mesh is None else spread_tiny(mesh, make_model)
    learner = LocalLearner(model, config, pad_token=PAD)
    history = []
    for update in range(updates):
        history.append(run(learner.forward_backward(make_pairs(pairs, seed=update, share=share), pair_loss)))
        run(learner.optim_step())
    return history, {name: tensor.clone() for name, tensor in learner.weights()}


def alike(ours: Any, theirs: Any) -> None:
    for a, b in zip(ours[0], theirs[0], strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    assert max(float((tensor - theirs[1][name]).abs().max()) for name, tensor in ours[1].items()) < 1e-5


@pytest.fixture(scope="module")
def plain() -> Any:
    return trained(None, {"train_micro_batch_size": 16}, share=False)


@pytest.mark.parametrize("share", [False, True], ids=["prompts apart", "prompts shared"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_the_layout_changes_nothing_but_rounding(layout: dict[str, Any], share: bool, plain: Any) -> None:
    alike(trained(None, layout, share=share), plain)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("way", ["a pair at a time", "packed"])
def test_ranks_change_nothing_but_rounding(ranks: int, way: str, plain: Any) -> None:
    for result in on_ranks(layout(shard=ranks), partial(trained, policy=LAYOUTS[way])):
        alike(result, plain)


@pytest.mark.slow
def test_a_rank_without_a_pair_weighs_nothing() -> None:
    one = trained(None, {}, pairs=1)
    for result in on_ranks(layout(shard=2), partial(trained, policy={}, pairs=1)):
        alike(result, one)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("way", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_pair_is_planned_once_and_whole(way: dict[str, Any], share: bool, count: int) -> None:
    samples = make_pairs(11)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(1)).tolist()
    parted = [samples[2 * n] for n in order] + [samples[2 * n + 1] for n in order]  # sides far apart
    plans = plan_per_rank(parted, sft_config(**way).policy, count, training=True, share=share)
    micros = [[parted[i].unit for row in rows for i in row] for plan in plans for rows in plan]
    assert len({len(plan) for plan in plans}) == 1
    assert sorted(chain(*micros)) == sorted(sample.unit for sample in samples)
    for micro in micros:
        assert micro[::2] == micro[1::2]


def test_a_micro_batch_counts_pairs() -> None:
    samples = make_pairs(6, share=False)
    micros = plan(samples, sft_config(train_micro_batch_size=2).policy, training=True, share=False)
    assert [len(rows) for rows in micros] == [4, 4, 4]
    shared = plan(make_pairs(6), sft_config(train_micro_batch_size=2).policy, training=True, share=True)
    assert [[len(row) for row in rows] for rows in shared] == [[2, 2]] * 3  # the prompt once for both sides


def test_pairs_of_one_prompt_share_it() -> None:
    samples = make_pairs(4, prompt=12)
    for sample in samples:
        sample.tokens_T = torch.cat([samples[0].tokens_T[:12], sample.tokens_T[sample.prefix :]])
        sample.loss_mask_T = torch.arange(len(sample)) >= 12
        sample.group, sample.prefix = "one", 12
    (rows, rest) = plan(samples, sft_config(train_micro_batch_size=3).policy, training=True, share=True)
    assert ([len(row) for row in rows], [len(row) for row in rest]) == ([6], [2])


def test_a_pair_too_long_for_one_row_is_laid_out_apart() -> None:
    samples = make_pairs(2, prompt=12)
    lengths = [row_length(samples, unit) for unit in units_of(samples)]
    if lengths[0] == lengths[1]:
        samples[0].tokens_T = samples[0].tokens_T[:-1]
        samples[0].loss_mask_T = samples[0].loss_mask_T[:-1]
    atoms = shared_prefix_units(samples, units_of(samples), 2, max(lengths) - 1)
    assert sorted(len(atom.rows) for atom in atoms) == [1, 2]
    assert [i for atom in atoms for row in atom.rows for i in row] == [0, 1, 2, 3]


def test_by_tokens_counts_the_rows_of_a_unit() -> None:
    assert by_tokens([10, 10, 4, 4], 40, rows=[2, 2, 2, 2]) == [[0, 1], [2, 3]]
    assert by_tokens([10, 9, 8], 40, rows=[2, 1, 2]) == [[0, 1], [2]]
    with pytest.raises(SampleTooLongError, match=r"of 42 tokens \(for a pair: both sides\)"):
        by_tokens([21], 40, rows=[2])


def test_totals_sum_every_sequence_column() -> None:
    totals = count_totals(make_pairs(5))
    assert totals.sums == {"weight": 2 * (0.25 + 1.25 + 2.25 + 3.25 + 0.25)}
    assert totals.sequences == 10


def test_the_silent_unit_is_whole_and_weighs_nothing() -> None:
    samples = make_pairs(3)
    unit = dummy_samples(samples)
    assert [len(unit), units_of(unit)] == [2, [[0, 1]]]
    assert [sample.num_targets for sample in unit] == [0, 0]
    assert [sample.sequence_columns for sample in unit] == [{"weight": 0.0}] * 2


def test_gradients_are_those_of_pairs_alone() -> None:
    learners = []
    for share in (True, False):
        learner = LocalLearner(
            make_model("qwen3"), sft_config(train_micro_batch_size=4).policy, pad_token=PAD
        )
        run(learner.forward_backward(make_pairs(6, share=share), pair_loss))
        learners.append(learner)
    assert learners[0].scorer.supports_shared_prefix
    assert largest_gap(gradients(learners[0].model), gradients(learners[1].model)) < 1e-5
