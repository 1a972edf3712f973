"""What a run says on the terminal about rows that it does not train on as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny

from hone.cli import main
from hone.model.loading import load_tokenizer


def test_rows_left_out_and_cut_are_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.make_model("llama").save_pretrained(tmp_path / "model")
    tiny.make_tokenizer().save_pretrained(tmp_path / "model")
    rows = [{"prompt": "a ", "completion": "b " * 60}] * 6 + [{"prompt": "a " * 90, "completion": "b"}] * 2
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = [
        f"policy.model_name={tmp_path / 'model'}",
        f"data.train.dataset_name={tmp_path / 'rows.jsonl'}",
        f"checkpointing.checkpoint_dir={tmp_path / 'run'}",
        "checkpointing.enabled=false",
        "policy.max_total_sequence_length=32",
        "policy.train_global_batch_size=2",
        "sft.max_num_steps=3",
    ]
    assert main(["sft", *settings]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        f"sft: {tmp_path / 'model'} on {tmp_path / 'rows.jsonl'}, into {tmp_path / 'run'}\n"
    )
    assert (
        out.count("2 of 8 rows are left out: their prompt alone fills policy.max_total_sequence_length=32")
        == 1
    )
    assert out.count("samples longer than policy.max_total_sequence_length=32 are truncated") == 1


def test_what_a_template_makes_of_the_rows_is_told_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Turns end with another token than texts do, and the reasoning of earlier turns is left out."""
    tokenizer = load_tokenizer("hone/tiny")
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.chat_template = (
        "{% for m in messages %}{% set said = m.content if loop.last else m.content.split('</think>')[-1] %}"
        "{{ '<|im_start|>' + m.role + '\n' + said + '<|im_end|>\n' }}{% endfor %}"
    )
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    talk = [
        {"role": role, "content": content}
        for role, content in [
            ("user", "a"),
            ("assistant", "<think>b</think>c"),
            ("user", "d"),
            ("assistant", "e"),
        ]
    ]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": talk}))
    settings = [
        "policy.model_name=hone/tiny",
        f"policy.tokenizer.name={tmp_path / 'tokenizer'}",
        f"data.train.dataset_name={tmp_path / 'rows.jsonl'}",
        f"checkpointing.checkpoint_dir={tmp_path / 'run'}",
        "checkpointing.enabled=false",
        "data.train.split_validation_size=0",
        "data.validation=null",
        "policy.train_global_batch_size=1",
        "policy.train_micro_batch_size=1",
        "sft.max_num_steps=2",
    ]
    assert main(["sft", *settings]) == 0
    told = capsys.readouterr().out.partition("step 1/")[0]
    assert (
        told.count("ends assistant turns with <|im_end|>; the tokenizer's end of sequence is <|endoft") == 1
    )
    assert (
        told.count("row 0 (line 1): reasoning of message 1 (assistant) is left out by the chat template") == 1
    )
    lines = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert dict(zip(lines[0].split(","), lines[-1].split(","), strict=True))["altered_samples"] == "1"
