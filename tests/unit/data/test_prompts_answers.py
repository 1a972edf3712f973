"""The answers that the data has to prompts just drawn: what off-policy distillation learns from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hone.config.schema.distill import DistillConfig
from hone.config.schema.sft import SFTConfig
from hone.data import build_prompts, build_supervised
from hone.errors import DataError

ROWS = [{"prompt": f"What is {n}?", "completion": f" It is {n * 7}.", "answer": str(n)} for n in range(12)]
CONVERSATIONS = [
    {
        "messages": [
            {"role": "user", "content": f"What is {n}?"},
            {"role": "assistant", "content": f"It is {n * 7}."},
        ]
    }
    for n in range(12)
]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def distill(name: str, length: int = 64) -> DistillConfig:
    policy = {"max_total_sequence_length": length}
    return DistillConfig(policy=policy, data={"train": {"dataset_name": name}})


@pytest.mark.parametrize("rows", [ROWS, CONVERSATIONS], ids=["text", "messages"])
def test_they_are_the_samples_of_sft(rows: list[dict[str, Any]], tmp_path: Path, chatml: Any) -> None:
    """Token for token, and behind the very prompt that the student would be asked."""
    name = write(tmp_path / "rows.jsonl", rows)
    supervised = build_supervised(
        SFTConfig(policy={"max_total_sequence_length": 64}, data={"train": {"dataset_name": name}}), chatml
    )
    given = {tuple(sample.tokens_T.tolist()): sample.loss_mask_T for sample in supervised.next(12)}
    data = build_prompts(distill(name), chatml)
    data.check_answers()
    prompts = data.next(12)
    samples = data.answers(prompts)
    assert [sample.id for sample in samples] == [prompt.id for prompt in prompts]
    for prompt, sample in zip(prompts, samples, strict=True):
        assert torch.equal(given.pop(tuple(sample.tokens_T.tolist())), sample.loss_mask_T)
        assert tuple(sample.tokens_T[: len(prompt.tokens)].tolist()) == prompt.tokens
        assert int(sample.loss_mask_T.nonzero()[0]) == len(prompt.tokens)
    assert not given


def test_what_is_cut_is_counted_and_the_counts_are_resumed(tmp_path: Path, chatml: Any) -> None:
    name = write(tmp_path / "rows.jsonl", ROWS)
    whole = build_prompts(distill(name), chatml)
    prompts = whole.next(12)
    lengths = [len(sample) for sample in whole.answers(prompts)]
    longest = max(len(prompt.tokens) for prompt in prompts)
    data = build_prompts(distill(name, longest + 1), chatml)
    samples = data.answers(data.next(12))
    assert len(samples) == 12
    assert data.counts["truncated"] == sum(length > longest + 1 for length in lengths) > 0
    assert data.counts["excluded"] == 0
    again = build_prompts(distill(name, longest + 1), chatml)
    again.load_state_dict(data.state_dict())
    assert again.counts == data.counts
    data.longest = longest  # cut where the answer would begin
    assert len(data.answers(prompts)) < 12
    assert data.counts["excluded"] > 0


def test_a_row_without_an_answer_is_found_before_training(tmp_path: Path, chatml: Any) -> None:
    name = write(tmp_path / "rows.jsonl", [*ROWS, {"prompt": "What is it?", "answer": "3"}])
    data = build_prompts(distill(name), chatml)
    with pytest.raises(DataError, match=r"rows\.jsonl.*13.*completion"):
        data.check_answers()


def test_a_checkpoint_from_before_they_were_counted_is_resumed(tmp_path: Path, chatml: Any) -> None:
    data = build_prompts(distill(write(tmp_path / "rows.jsonl", ROWS)), chatml)
    data.load_state_dict({"order": data.state_dict()["order"]})
    assert data.counts["truncated"] == 0
