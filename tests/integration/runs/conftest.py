"""Fresh checkpoints in Hugging Face format for real data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import GSM8K, make_model, make_tokenizer


@pytest.fixture(scope="session")
def gsm8k() -> Path:
    if not (GSM8K / "train.jsonl").is_file():
        pytest.skip("no GSM8K here")
    return GSM8K


@pytest.fixture(scope="session")
def fresh(gsm8k: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with `model/`, never trained, of the architecture named."""
    with (gsm8k / "train.jsonl").open() as file:
        rows = [json.loads(line) for _, line in zip(range(300), file, strict=False)]
    tokenizer = make_tokenizer([row["question"] + row["answer"] for row in rows], size=600)
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            make_model(made[kind] / "model", tokenizer, kind, hidden=64)
        return made[kind]

    return get
