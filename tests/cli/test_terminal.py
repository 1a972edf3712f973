"""What a run says on the terminal about rows that it does not train on as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hone.cli import main
from tests import tiny


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
    assert out.count("samples longer than policy.max_total_sequence_length=32 are cut") == 1
