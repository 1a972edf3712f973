"""A folder with rows for a real model, and the settings that keep 135 M parameters in fp32 within minutes on a CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from processes import write_rows
from real_model import real_model

CAPITALS = {
    "France": "Paris",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Japan": "Tokyo",
    "Germany": "Berlin",
    "Egypt": "Cairo",
    "Greece": "Athens",
    "Cuba": "Havana",
}
RIGHT = '''
def names_it(prompts, completions, answer, **columns):
    """Whether the answer is in the text."""
    return [float(a in c[0]["content"]) for c, a in zip(completions, answer)]


def length(prompts, completions, **columns):
    """Characters: differs between completions."""
    return [len(c[0]["content"]) / 100 for c in completions]
'''


def question(country: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": f"What is the capital of {country}?"}]


@pytest.fixture(scope="session")
def smol() -> Path:
    return real_model()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, smol: Path) -> Path:
    """`model` (a link), `rows.jsonl` to imitate, `prompts.jsonl` to answer, `rewards.py`."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "model").symlink_to(smol)
    answers = [
        {"messages": [*question(a), {"role": "assistant", "content": f"It is {b}, of course, where else?"}]}
        for a, b in CAPITALS.items()
    ]
    write_rows(folder / "rows.jsonl", answers)
    write_rows(folder / "prompts.jsonl", [{"prompt": question(a), "answer": b} for a, b in CAPITALS.items()])
    (folder / "rewards.py").write_text(RIGHT)
    return folder


def numbers(report: Path) -> dict[str, Any]:
    """A report that `hone eval` wrote."""
    return dict(json.loads(report.read_text()))
