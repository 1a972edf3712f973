"""The page about evaluation has every suite."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_the_table_of_suites_is_current() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "write_suite_docs.py"), "--check"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
