"""What the tests of the Python API call with. Not a test itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hone.embedded import dataset_rows

TINY: dict[str, Any] = {
    "grpo": {
        "num_prompts_per_step": 2,
        "num_generations_per_prompt": 4,
        "val_period": 0,
        "val_at_start": False,
        "val_at_end": False,
    },
    "policy": {"train_global_batch_size": 8, "train_micro_batch_size": 8},
    "logger": {"tensorboard_enabled": False},
    "rewards": {"num_workers": 1},
}
"""GRPO of the embedded model, a fraction of a second a step."""


def rows(count: int = 16) -> list[dict[str, Any]]:
    """Word problems."""
    return [dict(row) for row in dataset_rows("hone/word-problems", "train", count)]


def lessons(count: int) -> list[dict[str, Any]]:
    """Word problems with their answers."""
    return [{"prompt": row["prompt"], "completion": [said(row)]} for row in rows(count)]


def said(row: dict[str, Any]) -> dict[str, str]:
    """What an assistant answers."""
    return {"role": "assistant", "content": f"<answer>{row['answer']}</answer>"}


def weights(step: Path) -> bytes:
    """Every byte of a checkpoint's weights."""
    files = sorted((step / "policy" / "weights").glob("*.distcp"))
    assert files
    return b"".join(file.read_bytes() for file in files)


def importable(completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
    """A reward function of a module."""
    return [float(right in said[0]["content"]) for said, right in zip(completions, answer, strict=True)]
