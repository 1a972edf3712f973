"""From pairs to a reward model that `transformers` loads, to its picture, to GRPO that is rewarded by it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from processes import (
    GRPO,
    MODEL,
    RM,
    hone,
    succeeded,
    sums,
    tensors,
    workplace,
    write_rows,
)
from transformers import AutoModelForSequenceClassification, AutoTokenizer

SHORT = ("rm.max_num_steps=6", "rm.val_period=3", "checkpointing.save_period=6")
LORA = ("policy.lora.enabled=true", "policy.lora.dim=4")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return workplace(tmp_path_factory.mktemp("rm"))


@pytest.fixture(scope="module")
def model(place: Path) -> Path:
    """A reward model that was trained and converted."""
    succeeded(hone(*RM, *SHORT, "checkpointing.checkpoint_dir=run", cwd=place))
    succeeded(hone("convert", "run", "converted", cwd=place))
    return place / "converted"


def last_row(run: Path) -> dict[str, float]:
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: float(value) for name, value in rows[-1].items() if value}


def by_transformers(folder: Path, texts: list[str]) -> torch.Tensor:
    """Scores of whole texts in one padded batch, by nothing but `transformers`."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    loaded = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    batch = tokenizer([text + tokenizer.eos_token for text in texts], return_tensors="pt", padding=True)
    with torch.no_grad():
        return loaded(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]


def held_out(place: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (place / "held_out_pairs.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("way", [(), LORA], ids=["all weights", "adapters"])
def test_a_converted_model_scores_the_same_in_transformers(
    way: tuple[str, ...], place: Path, model: Path
) -> None:
    run, folder = place / "run", model
    if way:
        run, folder = place / "lora", place / "merged"
        succeeded(hone(*RM, *SHORT, *way, "checkpointing.checkpoint_dir=lora", cwd=place))
        succeeded(hone("convert", "lora", "merged", cwd=place))
    rows = held_out(place)
    chosen, rejected = (
        by_transformers(folder, [row["prompt"] + row[s] for row in rows]) for s in ("chosen", "rejected")
    )
    measured = last_row(run)
    assert measured["val_score_chosen"] == pytest.approx(float(chosen.mean()), abs=1e-5)
    assert measured["val_score_rejected"] == pytest.approx(float(rejected.mean()), abs=1e-5)
    assert measured["val_reward_accuracy"] == float((chosen > rejected).float().mean())


@pytest.mark.slow
def test_eval_rm_reads_a_run_or_a_model(place: Path, model: Path) -> None:
    measured = last_row(place / "run")
    for name, out in (("run", "from_run"), ("converted", "from_model")):
        ended = succeeded(
            hone(
                "eval-rm",
                f"--model_path={name}",
                "--test_dataset=held_out_pairs.jsonl",
                f"--out={out}",
                cwd=place,
            )
        )
        assert "accuracy = " in ended.out
        report = json.loads((place / out / "report.json").read_text())
        assert report["accuracy"] == pytest.approx(measured["val_reward_accuracy"])
        assert report["margin"] == pytest.approx(measured["val_reward_margin"], abs=1e-5)
        assert report["calibration_error"] == pytest.approx(measured["val_calibration_error"], abs=1e-4)
        assert (place / out / "reliability.png").read_bytes().startswith(b"\x89PNG")
        assert len((place / out / "scores.jsonl").read_text().splitlines()) == report["pairs"] == 8


@pytest.mark.slow
def test_grpo_is_rewarded_by_it(place: Path, model: Path) -> None:
    rewards = "rewards.functions=[{name: reward_model, kwargs: {model: converted, batch_size: 3}}]"
    settings = (
        "grpo.max_num_steps=2",
        "checkpointing.checkpoint_dir=rl",
        rewards,
        "checkpointing.metric_name=null",
    )
    succeeded(hone(*GRPO, *settings, cwd=place))
    for line in (place / "rl" / "rollouts" / "step_2.jsonl").read_text().splitlines():
        rollout = json.loads(line)
        assert rollout["rewards"]["reward_model"] == rollout["reward"]
        prompt = rollout["prompt"]
        expected = float(by_transformers(model, [prompt + rollout["completion"]])[0])
        assert rollout["reward"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_training_goes_on_from_a_reward_model(place: Path, model: Path) -> None:
    run = "checkpointing.checkpoint_dir=again"
    succeeded(hone(*RM, *SHORT, "policy.model_name=converted", "rm.max_num_steps=1", run, cwd=place))
    first = last_row(place / "again")
    assert first["reward_margin"] != 0
    assert tensors(place / "again").keys() == tensors(place / "run").keys()


def test_a_regression_head_learns_numbers(place: Path) -> None:
    rows = [{**row, "score": float(len(row["completion"])) / 10} for row in sums(32, seed=4)]
    write_rows(place / "scores.jsonl", rows)
    ended = succeeded(
        hone(
            *("rm", *MODEL, "data.train.dataset_name=scores.jsonl", "data.train.split_validation_size=0.25"),
            *("rm.reward_model_type=regression", "policy.train_global_batch_size=8", "rm.max_num_epochs=8"),
            "checkpointing.checkpoint_dir=regression",
            cwd=place,
        )
    )
    with (place / "regression" / "metrics.csv").open() as file:
        losses = [float(row["train_loss"]) for row in csv.DictReader(file) if row["train_loss"]]
    assert losses[-1] < 0.5 * losses[0], ended.out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ("rm.reward_model_type=regression",),
            "learns from single answers with a 'score', but the rows are pairs",
        ),
        (("policy.model_name=two",), "num_labels=2: a reward model has one"),
    ],
)
def test_what_does_not_fit_is_said_before_a_model_loads(
    settings: tuple[str, ...], message: str, place: Path, model: Path
) -> None:
    if not (place / "two").exists():
        (place / "two").mkdir()
        config = json.loads((model / "config.json").read_text())
        config |= {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}
        (place / "two" / "config.json").write_text(json.dumps(config))
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            if (model / name).exists():
                (place / "two" / name).write_text((model / name).read_text())
        (place / "two" / "model.safetensors").write_bytes(b"not read")
    ended = hone(*RM, *SHORT, *settings, "checkpointing.checkpoint_dir=wrong", cwd=place)
    assert ended.code != 0
    assert message in ended.err
    assert len(ended.err.strip().splitlines()) == 1


def test_a_reward_model_cannot_be_a_policy(place: Path, model: Path) -> None:
    ended = hone(*GRPO, "policy.model_name=converted", "checkpointing.checkpoint_dir=wrong", cwd=place)
    assert ended.code == 1
    assert "scores texts and cannot write any" in ended.err
