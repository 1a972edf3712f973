"""Rows with a number each, for a regression head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import make_tokenizer

from hone.config.schema.rm import RMConfig
from hone.data import build_preferences
from hone.data.preference_formats import SCORES
from hone.errors import DataError


def data_of(rows: list[dict[str, Any]], folder: Path, length: int = 64) -> Any:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = RMConfig(
        policy={"max_total_sequence_length": length},
        data={"train": {"dataset_name": str(folder / "rows.jsonl")}, "shuffle": False},
    )
    return build_preferences(config, make_tokenizer())


def test_each_row_is_one_sample_with_its_score(tmp_path: Path) -> None:
    rows = [{"prompt": "ab ", "completion": "cd", "score": score} for score in (1, -0.5)]
    data = data_of(rows, tmp_path)
    assert data.kind == SCORES
    assert not data.paired
    samples = data.next(2)
    assert [sample.sequence_columns["score"] for sample in samples] == [1.0, -0.5]


@pytest.mark.parametrize("score", ["good", True, float("inf")])
def test_a_score_that_is_no_number(score: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 0.*column 'score' must say how good"):
        data_of([{"prompt": "ab ", "completion": "cd", "score": score}], tmp_path)


def test_a_text_leaves_room_for_its_closing_token(tmp_path: Path) -> None:
    data = data_of([{"prompt": "ab ", "completion": "c" * 99, "score": 1}], tmp_path, length=32)
    assert len(data.next(1)[0]) == 31


def test_pairs_and_scores_do_not_mix(tmp_path: Path) -> None:
    rows = [
        {"prompt": "ab ", "completion": "cd", "score": 1},
        {"prompt": "ab ", "chosen": "c", "rejected": "d"},
    ]
    with pytest.raises(
        DataError, match=r"pairs .* and single answers with a 'score': a run needs rows of one kind"
    ):
        data_of(rows, tmp_path)
