"""What a template does not say as the rows do is told before the first step, and counted; in all kinds of data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hone.config.schema import EvalConfig
from hone.config.schema.dpo import DPOConfig
from hone.config.schema.grpo import GRPOConfig
from hone.config.schema.sft import SFTConfig
from hone.data import build_eval_prompts, build_preferences, build_prompts, build_supervised
from hone.errors import DataError
from tests.helpers.conversations import CALLS, call, with_template

ASK, MORE = {"role": "user", "content": "What is 2?"}, {"role": "user", "content": "Thanks!"}
THOUGHT = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nIt is 12."}
PLAIN, FINAL = (
    {"role": "assistant", "content": "It is 12."},
    {"role": "assistant", "content": "You are welcome."},
)
THINKING = {"messages": [ASK, THOUGHT, MORE, FINAL]}
"""Qwen3's template leaves out the thought of the first answer."""
TOLD = "row 1 (line 2): reasoning of message 1 (assistant) is left out by the chat template"


def section(rows: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"train": {"dataset_name": str(path)}, "shuffle": False}


def test_sft(qwen3: Any, tmp_path: Path) -> None:
    rows = [{"messages": [ASK, PLAIN]}, THINKING, THINKING]
    data = build_supervised(SFTConfig.model_validate({"data": section(rows, tmp_path)}), qwen3)
    (notice,) = data.finding_log.unreported()
    assert TOLD in notice
    assert "only_unmask_final=true" in notice
    assert len(data.next(3)) == 3
    assert (data.counts["altered"], data.state_dict()["counts"]["altered"]) == (2, 2)
    assert data.finding_log.unreported() == []


def test_preferences(qwen3: Any, tmp_path: Path) -> None:
    asked = [ASK, THOUGHT, MORE]
    pair = {"chosen": [FINAL], "rejected": [PLAIN]}
    rows = [{"prompt": [ASK], **pair}, {"prompt": asked, **pair}]
    data = build_preferences(DPOConfig.model_validate({"data": section(rows, tmp_path)}), qwen3)
    assert TOLD in data.finding_log.unreported()[0]
    assert len(data.next(2)) == 4
    assert data.counts["altered"] == 1


def test_prompts_of_rl_and_of_an_evaluation(qwen3: Any, tmp_path: Path) -> None:
    data = section([{"prompt": [ASK]}, {"prompt": THINKING["messages"][:3]}], tmp_path)
    assert TOLD in build_prompts(GRPOConfig.model_validate({"data": data}), qwen3).finding_log.unreported()[0]
    one = {"data": {"dataset_name": data["train"]["dataset_name"]}}
    assert TOLD in build_eval_prompts(EvalConfig.model_validate(one), qwen3).finding_log.unreported()[0]


def test_a_row_that_a_template_loses_is_refused_before_the_first_step(chatml: Any, tmp_path: Path) -> None:
    """Also where rows of another kind come before it."""
    tokenizer = with_template(chatml, CALLS + "{{ '<|im_end|>\n' }}{% endfor %}")
    rows = [
        {"messages": [ASK, PLAIN]},
        {"messages": [ASK, call({"a": 1}), {"role": "tool", "content": "2"}, PLAIN]},
    ]
    config = SFTConfig.model_validate({"data": section(rows, tmp_path)})
    with pytest.raises(DataError, match=r"row 1 \(line 2\): .* does not write the tool call f of message 1"):
        build_supervised(config, tokenizer)
