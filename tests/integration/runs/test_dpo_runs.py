"""`hone dpo` as users run it: what it leaves, how it goes on, what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from processes import (
    DPO,
    hone,
    make_model,
    make_tokenizer,
    pairs,
    same,
    succeeded,
    sums,
    tensors,
    workplace,
    write_rows,
)

from hone.tracking.metrics_csv import read_table

SHORT = ("dpo.max_num_steps=4", "dpo.val_period=2", "checkpointing.save_period=2")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return workplace(tmp_path_factory.mktemp("dpo"))


@pytest.fixture(scope="module")
def four(place: Path) -> Path:
    """A run of four steps."""
    ended = succeeded(hone(*DPO, *SHORT, "checkpointing.checkpoint_dir=four", cwd=place))
    assert "reference log-probabilities" in ended.out
    return place / "four"


def rows_of(run: Path) -> list[dict[str, str]]:
    return read_table(run / "metrics.csv")[1]


def test_metrics_have_the_fields_names(four: Path) -> None:
    rows = rows_of(four)
    names = ("preference_loss", "reward_accuracy", "reward_margin", "rewards_chosen", "rewards_rejected")
    names += ("logps_chosen", "logps_rejected")
    for name in names:
        assert all(row[name] for row in rows[1:]), name
        assert [bool(row[f"val_{name}"]) for row in rows] == [True, False, True, False, True], name
    assert float(rows[1]["train_loss"]) == pytest.approx(0.6931, abs=1e-4)
    assert float(rows[0]["val_loss"]) == pytest.approx(0.6931, abs=1e-4)
    assert float(rows[1]["units"]) == 4
    assert float(rows[1]["samples"]) == 8


def test_the_reference_is_computed_once(four: Path, place: Path) -> None:
    run = place / "again"
    shutil.copytree(four, run)
    before = (run / "reference.pt").stat().st_mtime_ns
    ended = succeeded(hone(*DPO, *SHORT, f"checkpointing.checkpoint_dir={run.name}", cwd=place))
    assert "is a finished run" in ended.out
    assert "reference log-probabilities" not in ended.out
    assert (run / "reference.pt").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.parametrize("kept", [True, False], ids=["reference.pt there", "reference.pt gone"])
def test_a_longer_run_goes_on_with_the_first_weights_as_reference(
    kept: bool, four: Path, place: Path
) -> None:
    """Rows that the first run did not come to are scored by the weights it began with, not by those it left."""
    longer = tuple(text.replace("steps=4", "steps=8") for text in SHORT)
    whole, run = place / "whole", place / f"longer_{kept}"
    if not whole.exists():
        succeeded(hone(*DPO, *longer, "checkpointing.checkpoint_dir=whole", cwd=place))
    shutil.copytree(four, run)
    if not kept:
        (run / "reference.pt").unlink()
    ended = succeeded(hone(*DPO, *longer, f"checkpointing.checkpoint_dir={run.name}", cwd=place))
    assert "resumed from" in ended.out
    expected = tensors(whole)
    gap = max(float((value - expected[name]).abs().max()) for name, value in tensors(run).items())
    assert gap < 1e-5


def test_changed_data_is_noticed(four: Path, place: Path) -> None:
    run = place / "changed"
    shutil.copytree(four, run)
    write_rows(place / "other.jsonl", pairs(64, seed=5))
    shutil.move(place / "pairs.jsonl", place / "kept.jsonl")
    shutil.copy(place / "other.jsonl", place / "pairs.jsonl")
    try:
        longer = tuple(text.replace("steps=4", "steps=8") for text in SHORT)
        ended = hone(*DPO, *longer, "checkpointing.checkpoint_dir=changed", cwd=place)
    finally:
        shutil.move(place / "kept.jsonl", place / "pairs.jsonl")
    assert ended.code == 1
    assert "their content has changed" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.slow
def test_a_damaged_reference_is_computed_again(four: Path, place: Path) -> None:
    run = place / "damaged"
    run.mkdir()
    (run / "reference.pt").write_bytes(b"nothing")
    ended = succeeded(hone(*DPO, *SHORT, "checkpointing.checkpoint_dir=damaged", cwd=place))
    assert "cannot be read" in ended.err
    same(tensors(run), tensors(four))


def test_losses_without_a_reference_compute_none(place: Path) -> None:
    argv = (*DPO, *SHORT, "dpo.preference_loss=simpo", "checkpointing.checkpoint_dir=simpo")
    ended = succeeded(hone(*argv, cwd=place))
    assert "reference log-probabilities" not in ended.out
    assert not (place / "simpo" / "reference.pt").exists()


@pytest.mark.slow
def test_adapters_begin_as_the_model_that_they_are_on(place: Path) -> None:
    lora = ("policy.lora.enabled=true", "policy.lora.dim=4", "checkpointing.checkpoint_dir=lora")
    succeeded(hone(*DPO, *SHORT, *lora, cwd=place))
    rows = rows_of(place / "lora")
    assert float(rows[1]["train_loss"]) == pytest.approx(0.6931, abs=1e-4)
    assert float(rows[1]["rewards_chosen"]) == pytest.approx(0.0, abs=1e-5)
    assert float(rows[4]["rewards_chosen"]) != 0.0


def rated(count: int) -> list[dict[str, object]]:
    return [
        {"prompt": row["prompt"], "completion": row["completion"] if n % 3 else " No.", "label": bool(n % 3)}
        for n, row in enumerate(sums(count, seed=3))
    ]


@pytest.mark.slow
def test_rated_answers_and_kto(place: Path) -> None:
    write_rows(place / "rated.jsonl", rated(32))
    argv = (*DPO, *SHORT, "data.train.dataset_name=rated.jsonl", "data.validation=null")
    argv += ("data.train.split_validation_size=0.2",)
    refused = hone(*argv, "checkpointing.checkpoint_dir=refused", cwd=place)
    assert refused.code == 1
    assert "dpo.preference_loss=sigmoid compares two answers" in refused.err
    kto = (*argv, "dpo.preference_loss=kto", "checkpointing.checkpoint_dir=kto")
    succeeded(hone(*kto, cwd=place))
    rows = rows_of(place / "kto")
    assert float(rows[1]["train_loss"]) == pytest.approx(0.5, abs=1e-4)  # 1 - sigmoid(0)
    assert float(rows[1]["kto_kl"]) == pytest.approx(0.0, abs=1e-5)
    assert float(rows[4]["rewards_chosen"]) > float(rows[4]["rewards_rejected"])


def test_rows_left_out_are_told(place: Path) -> None:
    rows = pairs(16, seed=1)
    rows[3]["rejected"] = rows[3]["chosen"]
    rows[5]["prompt"] = ""
    write_rows(place / "flawed.jsonl", rows)
    argv = (*DPO, "dpo.max_num_steps=1", "data.train.dataset_name=flawed.jsonl", "dpo.val_at_start=false")
    ended = succeeded(hone(*argv, "checkpointing.checkpoint_dir=flawed", cwd=place))
    assert "2 of 16 rows are left out: 1 identical, 1 empty prompt" in ended.out


def test_a_model_whose_head_is_one_number_is_refused(place: Path) -> None:
    tokenizer = make_tokenizer([row["prompt"] for row in sums(16)])
    folder = make_model(place / "scorer", tokenizer)
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1).save_pretrained(folder)
    ended = hone(*DPO, *SHORT, "policy.model_name=scorer", "checkpointing.checkpoint_dir=wrong", cwd=place)
    assert ended.code != 0
    assert "Traceback" not in ended.err
