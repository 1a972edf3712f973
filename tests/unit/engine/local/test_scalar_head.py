"""Scalar heads train alike however samples are laid out and wherever ranks are; checkpoints belong to no mesh."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from parity import ADAMW, TrainedValues, compare_values, make_scalar
from ranks import layout, on_ranks, spread_tiny
from tiny import CONFIGS, PAD, make_model, make_samples, run, sft_config

from hone.engine.local.learner import LocalLearner
from hone.errors import TrainingError
from hone.model.mesh import Mesh
from hone.model.model_size import model_size_of
from hone.planning.memory_estimate import Settings, estimate_memory
from hone.planning.parallel_dims import ParallelDims
from hone.types import Batch, LossOutput, Outputs, Sample, Totals

UPDATES = 10
MESHES = {
    "dp2": layout(shard=2),
    "tp2": layout(tensor=2),
    "cp2": layout(context=2),
    "ddp2": layout(replicate=2),
    "dp3": layout(shard=3),
    "dp2 x tp2": layout(shard=2, tensor=2),
}
QUICK = ("dp2",)
WAYS: dict[str, dict[str, Any]] = {
    "one at a time": {"train_micro_batch_size": 1},
    "four at a time": {"train_micro_batch_size": 4},
    "by tokens": {"dynamic_batching": {"enabled": True, "train_mb_tokens": 40, "sequence_length_round": 8}},
    "packed": {"sequence_packing": {"enabled": True, "train_mb_tokens": 45}},
    "activations computed again": {"activation_checkpointing": True, "train_micro_batch_size": 4},
}


def value_loss(outputs: Outputs, batch: Batch, totals: Totals) -> LossOutput:
    """Squared distance from a target of each token: every value counts."""
    assert outputs.values_N is not None
    error = (outputs.values_N - batch.token_columns["returns"]).square()
    return LossOutput(
        error.sum() / totals.tokens, {"value_mean": outputs.values_N.detach().sum() / totals.tokens}
    )


def samples_of(update: int, count: int = 7, group: bool = False) -> list[Sample]:
    samples = make_samples(count, seed=update, shortest=8)
    generator = torch.Generator().manual_seed(update)
    for index, sample in enumerate(samples):
        sample.token_columns["returns"] = torch.randn(sample.num_targets, generator=generator)
        if group:
            sample.tokens_T[:6] = samples[index // 3 * 3].tokens_T[:6]
            sample.loss_mask_T[:6] = False
            sample.loss_mask_T[6:] = True
            sample.token_columns["returns"] = torch.randn(sample.num_targets, generator=generator)
            sample.group, sample.prefix = f"g{index // 3}", 6
    return samples


def train(
    mesh: Mesh | None,
    kind: str = "llama",
    policy: dict[str, Any] | None = None,
    *,
    lora: bool = False,
    group: bool = False,
    sequence_parallel: bool = False,
    folders: tuple[Path | None, Path | None] = (None, None),
) -> TrainedValues:
    config = sft_config(**{"optimizer": ADAMW, **(policy or {"train_micro_batch_size": 2})}).policy

    def make() -> Any:
        model = make_scalar(kind, lora=lora)
        if config.activation_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return model

    model = make() if mesh is None else spread_tiny(mesh, make, sequence_parallel=sequence_parallel)
    learner = LocalLearner(model, config, pad_token=PAD)
    if folders[0] is not None:
        run(learner.load(folders[0]))
    history = []
    for update in range(UPDATES):
        metrics = run(learner.forward_backward(samples_of(update, group=group), value_loss))
        history.append(metrics | run(learner.optim_step()))
    if folders[1] is not None:
        run(learner.save(folders[1]))
    values = run(learner.forward(samples_of(99)))
    return history, {name: tensor.clone() for name, tensor in learner.weights()}, values


def slow_but(names: tuple[str, ...], table: dict[str, Any]) -> list[Any]:
    marks = {name: () if name in names else pytest.mark.slow for name in table}
    return [pytest.param(value, id=name, marks=marks[name]) for name, value in table.items()]


@pytest.mark.parametrize("mesh", slow_but(QUICK, MESHES))
def test_ranks(mesh: ParallelDims) -> None:
    compare_values(train(None), on_ranks(mesh, train))


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_layouts(way: dict[str, Any]) -> None:
    compare_values(train(None), [train(None, policy=way)])


def test_completions_behind_one_prompt() -> None:
    together = {"train_micro_batch_size": 4}
    compare_values(train(None, group=False), [train(None, policy=together, group=False)])
    compare_values(
        train(None, policy={"train_micro_batch_size": 1}, group=True),
        [train(None, policy=together, group=True)],
    )


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("mesh", [MESHES[name] for name in ("dp3", "cp2", "dp2 x tp2")], ids=str)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_layouts_on_ranks(way: dict[str, Any], mesh: ParallelDims) -> None:
    compare_values(train(None), on_ranks(mesh, partial(train, policy=way)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral", "gemma2"])
def test_tensor_parallel_by_family(kind: str) -> None:
    work = partial(train, kind=kind)
    compare_values(work(None), on_ranks(layout(tensor=2), work))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_sequence_parallel(kind: str) -> None:
    work = partial(train, kind=kind, sequence_parallel=True)
    compare_values(train(None, kind), on_ranks(layout(tensor=2), work))


@pytest.mark.parametrize("mesh", [None, pytest.param(MESHES["dp2"], marks=pytest.mark.slow)], ids=str)
def test_adapters_train_the_head_besides(mesh: ParallelDims | None) -> None:
    before = dict(make_scalar(lora=True).named_parameters())
    alone = train(None, lora=True)
    changed = {name for name, weight in alone[1].items() if not torch.equal(weight, before[name])}
    assert all("lora_" in name or "score.modules_to_save" in name for name in changed)
    assert any("score.modules_to_save" in name for name in changed)
    if mesh is not None:
        compare_values(alone, on_ranks(mesh, partial(train, lora=True)))


@pytest.mark.slow
def test_a_checkpoint_goes_on_on_another_mesh(tmp_path: Path) -> None:
    train(None, folders=(None, tmp_path / "1"))
    alone = train(None, folders=(tmp_path / "1", tmp_path / "2"))
    compare_values(alone, on_ranks(MESHES["dp2"], partial(train, folders=(tmp_path / "1", tmp_path / "2r"))))
    compare_values(
        train(None, folders=(tmp_path / "2", None)), [train(None, folders=(tmp_path / "2r", None))]
    )


def test_a_loss_of_log_probabilities_stops_at_once() -> None:
    from hone.algorithms.sft import sft_loss

    learner = LocalLearner(make_scalar(), sft_config().policy, pad_token=PAD)
    with pytest.raises(TrainingError, match="loss is nan"):
        run(learner.forward_backward(make_samples(3), sft_loss))


def test_forward_gives_values_in_the_order_of_targets() -> None:
    model = make_scalar().eval()
    learner = LocalLearner(model, sft_config(train_micro_batch_size=3).policy, pad_token=PAD)
    samples = make_samples(5)
    for sample, values in zip(samples, run(learner.forward(samples)), strict=True):
        ends = sample.loss_mask_T.nonzero().squeeze(1).tolist()
        own = [model(sample.tokens_T[None, :end]).logits[0, 0] for end in ends]
        torch.testing.assert_close(values, torch.stack(own), rtol=0, atol=1e-5)


def test_low_precision_is_near() -> None:
    samples = make_samples(5)
    full = LocalLearner(make_scalar(), sft_config().policy, pad_token=PAD)
    low = LocalLearner(make_scalar(), sft_config(precision="bfloat16").policy, pad_token=PAD)
    for ours, theirs in zip(run(low.forward(samples)), run(full.forward(samples)), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0.05)


def test_the_language_model_of_the_same_body_is_untouched() -> None:
    learner = LocalLearner(make_model(), sft_config().policy, pad_token=PAD)
    assert not learner.scorer.scalar
    assert learner.scorer.plain_head


def test_the_memory_plan_has_no_logits() -> None:
    config = sft_config(max_total_sequence_length=64)
    shapes = {
        scalar: model_size_of(CONFIGS["llama"](num_labels=1), scalar=scalar) for scalar in (True, False)
    }
    found = {
        scalar: estimate_memory(shape, config, ParallelDims(), Settings(4))
        for scalar, shape in shapes.items()
    }
    assert found[True].logits == 0
    assert found[False].logits > 0
    assert found[True].activations == found[False].activations
