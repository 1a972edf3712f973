"""A reward model as a reward function: the scores that `transformers` gives, from one process that holds it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CONFIGS, make_model, make_tokenizer
from transformers import AutoModelForSequenceClassification, BertConfig

from hone.errors import ModelError, RewardError
from hone.rollout.rewards.resolve import resolve
from hone.rollout.rewards.reward_model import RewardModel
from hone.rollout.rewards.reward_pool import RewardPool

TEMPLATE = "{% for m in messages %}{{ m['role'][0] }}<{{ m['content'] }}>{% endfor %}"
PROMPTS = ["what", "why not", "a", "which of these two"]
COMPLETIONS = ["this one.", "no", "a b c d e f g h i j", "x"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("rm")
    torch.manual_seed(3)
    config = CONFIGS["llama"](num_labels=1, pad_token_id=None)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return str(path)


def alone(folder: str, text: str) -> float:
    """What `transformers` says of one text, its end-of-sequence token behind it."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return float(model(torch.tensor([[*make_tokenizer()(text)["input_ids"], 1]])).logits)


def score(entry: dict[str, Any], prompts: Any = PROMPTS, completions: Any = COMPLETIONS, **how: Any) -> Any:
    async def go() -> Any:
        with RewardPool([resolve(entry)], num_workers=3, **how) as pool:
            scored = await pool.score(prompts, completions, {})
            return scored, pool.worker_pids()

    return asyncio.run(go())


def entry(folder: str, **options: Any) -> dict[str, Any]:
    return {"name": "reward_model", "kwargs": {"model": folder, **options}}


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_scores_are_those_of_each_text_alone(folder: str, batch_size: int) -> None:
    model = RewardModel(folder, batch_size=batch_size)
    expected = [alone(folder, p + c) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert model.score(PROMPTS, COMPLETIONS) == pytest.approx(expected, abs=1e-5)
    assert model.score([], []) == []


def test_conversations_are_scored_with_the_chat_template(folder: str) -> None:
    model = RewardModel(folder, template=TEMPLATE)
    prompt = [{"role": "user", "content": "hi"}]
    answer = [{"role": "assistant", "content": "yes"}]
    expected = alone(folder, "u<hi>a<yes>")
    assert model.score([prompt, "hi"], [answer, answer]) == pytest.approx([expected] * 2, abs=1e-5)


@pytest.mark.slow
def test_a_pool_has_one_process_for_it(folder: str) -> None:
    scored, pids = score(entry(folder))
    expected = [alone(folder, p + c) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert [one.reward for one in scored] == pytest.approx(expected, abs=1e-5)
    assert len(pids) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


@pytest.mark.slow
def test_a_text_that_is_too_long_fails_alone(folder: str) -> None:
    long = ["short"] * 3 + ["y" * 40]
    scored, _ = score(entry(folder, max_length=30), completions=long, max_failure_fraction=0.5)
    assert [one.reward is None for one in scored] == [False, False, False, True]
    assert "exceeds the 30 of reward model" in scored[3].failure


@pytest.mark.slow
def test_what_is_no_reward_model_stops_the_run_at_its_start(tmp_path: Path) -> None:
    make_model("llama").save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(
        RewardError, match=r"'reward_model' cannot be used: .*LlamaForCausalLM, not a reward model"
    ):
        score(entry(str(tmp_path)))
    with pytest.raises(RewardError, match="no option modle"):
        score({"name": "reward_model", "kwargs": {"modle": "x"}})
    with pytest.raises(ModelError, match="does not exist"):
        RewardModel("/nowhere/at/all")


def test_an_encoder_reads_two_texts_its_own_way(tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = BertConfig(vocab_size=64, num_labels=1, pad_token_id=0, **shape)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"cls_token": "a", "sep_token": "b"})
    tokenizer.save_pretrained(tmp_path)
    model = RewardModel(str(tmp_path), batch_size=2)
    together = model.score(PROMPTS, COMPLETIONS)
    single = [model.score([p], [c])[0] for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert together == pytest.approx(single, abs=1e-5)


def test_a_device_that_does_not_exist_is_named(folder: str) -> None:
    with pytest.raises(ModelError, match="cannot be put on device"):
        RewardModel(folder, device="cuda:7" if not torch.cuda.is_available() else "nowhere")
