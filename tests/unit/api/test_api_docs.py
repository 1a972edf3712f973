"""The examples of docs/api.md run as they stand, one after another."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[3] / "docs" / "api.md"


@pytest.mark.slow
def test_the_examples_run(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE))
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "the worst 1" in done.stdout
    for name in ("report.html", "data/train.jsonl", "functions/right.py", "functions/function_2.pkl"):
        assert (tmp_path / "results" / "eggs" / name).is_file()
    assert (tmp_path / "models" / "sums" / "config.json").is_file()
    command = re.search(r"^    hone (grpo --config results/eggs.*)$", text, flags=re.MULTILINE)
    assert command is not None
    words = [sys.executable, "-m", "hone", *command[1].split()]
    went_on = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert "resumed from" in went_on.stdout, went_on.stderr
