"""Real input, end to end: GSM8K, fresh checkpoints, SFT, GRPO, conversion, evaluation."""

from __future__ import annotations

import json
import math

import pytest
import torch
from processes import hone, metric_rows, steps_of, succeeded, tensors
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer


def policy(gsm8k) -> tuple[str, ...]:
    return (
        "policy.model_name=model",
        "policy.precision=float32",
        "policy.max_total_sequence_length=384",
        "policy.optimizer.kwargs.lr=3e-3",
        "cluster.gpus_per_node=0",
        f"data.train.dataset_name={gsm8k}/train.jsonl",
        f"data.validation.dataset_name={gsm8k}/test.jsonl",
    )


@pytest.mark.parametrize("kind", ["llama", pytest.param("qwen3", marks=pytest.mark.slow)])
def test_sft_lowers_the_validation_loss(kind, fresh, gsm8k):
    place = fresh(kind)
    succeeded(
        hone(
            "sft",
            *policy(gsm8k),
            "data.train.limit=400",
            "data.validation.limit=16",
            "policy.train_global_batch_size=8",
            "policy.train_micro_batch_size=4",
            "sft.max_num_steps=16",
            "sft.val_period=8",
            "checkpointing.checkpoint_dir=sft",
            cwd=place,
        )
    )
    losses = [float(row["val_loss"]) for row in metric_rows(place / "sft") if row["val_loss"]]
    assert losses[0] == pytest.approx(math.log(600), rel=0.05)  # it knows nothing yet
    assert losses[0] > losses[1] > losses[2]
    assert losses[0] - losses[-1] > 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_grpo_resumes_converts_and_loads(kind, fresh, gsm8k, monkeypatch):
    place = fresh(kind)
    argv = (
        "grpo",
        *policy(gsm8k),
        "data.train.limit=32",
        "data.validation.limit=4",
        "policy.train_global_batch_size=8",
        "policy.train_micro_batch_size=8",
        "policy.generation.max_new_tokens=16",
        "grpo.num_prompts_per_step=2",
        "grpo.num_generations_per_prompt=4",
        "grpo.val_period=2",
        "rewards.functions=[{name: answer}, {name: math}, {name: length, weight: 0.01, kwargs: {target: 20}}]",
        "rewards.timeout_s=60",
        "checkpointing.checkpoint_dir=grpo",
    )
    succeeded(hone(*argv, "grpo.max_num_steps=2", cwd=place))
    again = succeeded(hone(*argv, "grpo.max_num_steps=4", cwd=place))
    assert "resumed from grpo/step_2" in again.out
    assert [row["step"] for row in metric_rows(place / "grpo")][-4:] == ["1", "2", "3", "4"]
    rollouts = [json.loads(line) for line in (place / "grpo/rollouts/step_4.jsonl").open()]
    assert len(rollouts) == 8
    assert set(rollouts[0]["rewards"]) == {"answer", "math", "length"}

    step = f"grpo/step_{steps_of(place / 'grpo')[-1]}"
    convert = (
        *("--config", f"{step}/config.yaml"),
        *("--dcp-ckpt-path", f"{step}/policy/weights/"),
        *("--hf-ckpt-path", "grpo/hf"),
    )
    succeeded(hone("convert", *convert, cwd=place))

    converted = AutoModelForCausalLM.from_pretrained(place / "grpo/hf", dtype=torch.float32).eval()
    learner = AutoModelForCausalLM.from_config(
        AutoConfig.from_pretrained(place / "model"), dtype=torch.float32
    ).eval()
    missing, unexpected = learner.load_state_dict(tensors(place / "grpo"), strict=False)
    assert not unexpected
    assert not missing or (missing == ["lm_head.weight"] and learner.config.tie_word_embeddings)
    before = AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(place / "grpo/hf")
    ids = tokenizer("How many clips did Natalia sell altogether?", return_tensors="pt").input_ids
    assert tokenizer.chat_template
    with torch.no_grad():
        logits = converted(ids).logits
        assert torch.equal(logits, learner(ids).logits)
        assert not torch.equal(logits, before(ids).logits)

    report = evaluated(
        place,
        "generation.model_name=grpo/hf",
        f"data.dataset_name={gsm8k}/test.jsonl",
        "data.limit=3",
        "generation.temperature=0.7",
        "generation.top_p=0.9",
        "eval.num_tests_per_prompt=4",
        "eval.k_value=2",
        "cluster.gpus_per_node=8",
    )
    assert (report["metric"], report["prompts"], report["tests_per_prompt"]) == ("pass@2", 3, 4)
    again = evaluated(
        place,
        "generation.model_name=grpo/hf",
        f"data.dataset_name={gsm8k}/test.jsonl",
        "data.limit=3",
        "generation.temperature=0.7",
        "eval.metric=cons@k",
        "eval.num_tests_per_prompt=4",
        "eval.k_value=2",
    )
    assert again["metric"] == "cons@2"


def evaluated(place, *settings: str):
    argv = (
        "eval",
        "generation.max_model_len=256",
        "generation.max_new_tokens=12",
        "generation.precision=float32",
    )
    ended = succeeded(hone(*argv, *settings, "eval.save_path=report", "rewards.timeout_s=60", cwd=place))
    report = json.loads((place / "report/report.json").read_text())
    assert f"{report['metric']} = {report['score']:.4f} on 3 prompts x 4" in ended.out
    assert ("runs in one process here" in ended.out) == ("cluster.gpus_per_node=8" in settings)
    assert len((place / "report/samples.jsonl").read_text().splitlines()) == 12
    return report


def test_the_problem_is_not_right_for_the_wrong_reason(fresh, gsm8k):
    """A model that knows nothing gets nothing: GSM8K's gold answers never reach the prompt."""
    place = fresh("llama")
    argv = (
        "generation.model_name=model",
        f"data.dataset_name={gsm8k}/test.jsonl",
        "data.limit=3",
        "generation.temperature=1.0",
        "eval.num_tests_per_prompt=4",
    )
    report = evaluated(place, *argv)
    assert report["score"] == 0.0
    for line in (place / "report/samples.jsonl").open():
        sample = json.loads(line)
        assert "####" not in str(sample["prompt"])
        assert "####" in sample["answer"]
