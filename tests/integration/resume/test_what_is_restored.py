"""What a resumed run has besides its weights, and what it accepts to be changed.

`checkpoint_must_save_by` of no time stops a run after each step: an interruption without chance.
"""

from __future__ import annotations

import pytest
import torch
from processes import SFT, hone, metric_rows, result, same, succeeded, sums, tensors, workplace, write_rows

from tests.integration.resume.conftest import RUNS

SHORT = (
    *SFT,
    "sft.max_num_steps=5",
    "sft.val_period=0",
    "sft.val_at_start=false",
    "checkpointing.metric_name=null",
    "checkpointing.save_period=5",
    "checkpointing.keep_top_k=1",
)
MIXTURE = "data.train=[{dataset_name: train.jsonl, weight: 3}, {dataset_name: other.jsonl, weight: 1}]"
STOP = "checkpointing.checkpoint_must_save_by=0:0:0:0"


def in_pieces_and_in_one(place, name: str, *settings: str) -> list[dict[str, str]]:
    """Run both; they must be the same. Returns the metrics."""
    whole, pieces = f"{name}_whole", f"{name}_pieces"
    succeeded(hone(*SHORT, *settings, f"checkpointing.checkpoint_dir={whole}", cwd=place))
    for _ in range(2):
        succeeded(hone(*SHORT, *settings, STOP, f"checkpointing.checkpoint_dir={pieces}", cwd=place))
    succeeded(hone(*SHORT, *settings, f"checkpointing.checkpoint_dir={pieces}", cwd=place))
    same(result(place / pieces), result(place / whole))
    return metric_rows(place / whole)


@pytest.mark.slow
def test_random_generators_of_dropout(place):
    with_dropout = in_pieces_and_in_one(place, "dropout", "+policy.hf_config_overrides.attention_dropout=0.5")
    succeeded(hone(*SHORT, "checkpointing.checkpoint_dir=without", cwd=place))
    assert with_dropout[0]["train_loss"] != metric_rows(place / "without")[0]["train_loss"]


@pytest.mark.slow
def test_loss_scale_of_fp16(place):
    rows = in_pieces_and_in_one(place, "fp16", "policy.precision=float16")
    assert float(rows[0]["loss_scale"]) > 1


@pytest.mark.slow
def test_several_datasets_mixed_by_weight(place):
    write_rows(place / "other.jsonl", sums(20, seed=5))
    rows = in_pieces_and_in_one(place, "mixture", MIXTURE)
    assert len(rows) == 5


@pytest.mark.slow
def test_plain_sgd_has_no_state_to_restore(place):
    in_pieces_and_in_one(
        place, "sgd", "policy.optimizer.name=torch.optim.SGD", "policy.optimizer.kwargs={lr: 0.1}"
    )


class TestChangedSettings:
    def test_are_named_and_refused(self, place, uninterrupted):
        uninterrupted("sft")
        argv = (*RUNS["sft"], "checkpointing.checkpoint_dir=reference_sft", "sft.max_num_steps=20")
        ended = hone(*argv, "sft.seed=43", "policy.optimizer.kwargs.lr=1e-3", cwd=place)
        assert ended.code == 1
        assert ended.err.count("\n") == 1
        for part in (
            "step_18 was made with other settings",
            "policy.optimizer.kwargs.lr: 0.002 -> 0.001",
            "sft.seed: 42 -> 43",
            "checkpointing.allow_config_change=true",
        ):
            assert part in ended.err

    @pytest.mark.slow
    @pytest.mark.parametrize("schedule", ["null", "[{name: torch.optim.lr_scheduler.ConstantLR}]"])
    def test_are_heard_where_they_are_allowed(self, place, run_dir, schedule):
        name = f"changed_{len(schedule)}"
        argv = (*SHORT, f"checkpointing.checkpoint_dir={name}", f"policy.scheduler={schedule}")
        succeeded(hone(*argv, STOP, cwd=place))
        allowed = (*argv, "checkpointing.allow_config_change=true", "policy.optimizer.kwargs.lr=1e-4")
        succeeded(hone(*allowed, cwd=place))
        rates = [float(row["learning_rate"]) for row in metric_rows(place / name)]
        before, after = (2e-3, 1e-4) if schedule == "null" else (2e-3 / 3, 1e-4 / 3)
        assert rates[:4] == pytest.approx([before, after, after, after], rel=1e-6)

    @pytest.mark.slow
    def test_a_cluster_is_free(self, place):
        name = "checkpointing.checkpoint_dir=other_cluster"
        succeeded(hone(*SHORT, STOP, name, cwd=place))
        succeeded(
            hone(*SHORT, STOP, name, "cluster.num_nodes=2", "logger.tensorboard_enabled=false", cwd=place)
        )


@pytest.mark.slow
def test_two_fresh_runs_are_the_same_and_another_seed_is_not(place):
    for name, seed in (("fresh_a", 1), ("fresh_b", 1), ("fresh_c", 2)):
        succeeded(hone(*SHORT, f"sft.seed={seed}", f"checkpointing.checkpoint_dir={name}", cwd=place))
    same(result(place / "fresh_a"), result(place / "fresh_b"))
    a, c = (tensors(place / name) for name in ("fresh_a", "fresh_c"))
    assert any(not torch.equal(a[key], c[key]) for key in a)


@pytest.mark.slow
def test_all_of_it_at_once(tmp_path):
    """Dropout, a loss scale, a mixture and tied weights."""
    place = workplace(tmp_path, "qwen3")
    write_rows(place / "other.jsonl", sums(20, seed=5))
    dropout = "+policy.hf_config_overrides.attention_dropout=0.5"
    in_pieces_and_in_one(place, "all", dropout, "policy.precision=float16", MIXTURE)
