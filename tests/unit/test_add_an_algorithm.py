"""The page "Add an algorithm", followed: its files are written, and its commands run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "add-an-algorithm.md").read_text()


def test_the_tables_of_fields_are_current() -> None:
    check = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "write_registry_docs.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert check.returncode == 0, check.stderr


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's package as an installer leaves it."""
    folder = tmp_path_factory.mktemp("raft")
    for name, code in re.findall(r"^`(raft/\w+\.py)`.*?```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code)
    (entry,) = re.findall(r"```toml\n\[project\.entry-points\.\"(.*?)\"\]\n(.*?)```", PAGE, re.DOTALL)
    about = folder / "raft-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: raft\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{entry[0]}]\n{entry[1].replace(chr(34), '')}")
    return folder


def ran(package: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *argv], cwd=package, env=env, capture_output=True, text=True, check=False
    )


def commands() -> list[list[str]]:
    blocks = re.findall(r"(?:^    .*\n)+", PAGE, re.MULTILINE)
    text = "".join(block for block in blocks if block.startswith("    hone raft"))
    return [shlex.split(line) for line in text.replace("\\\n", "").splitlines()]


@pytest.mark.slow
def test_the_commands_of_the_page_run(package: Path) -> None:
    train, explain = commands()
    done = ran(package, "-m", *train)
    assert done.returncode == 0, done.stderr
    assert "done at step 2/2" in done.stdout
    rows = (package / "results" / "raft" / "metrics.csv").read_text().splitlines()
    assert len(rows) == 3
    assert "So many of the best" in ran(package, "-m", *explain).stdout


@pytest.mark.slow
def test_the_algorithm_is_a_command_a_function_and_a_kind_of_plan(package: Path) -> None:
    assert (
        "fine-tuning on the best of the policy's own completions"
        in ran(package, "-m", "hone", "--help").stdout
    )
    code = "import hone, inspect; print('raft' in dir(hone), 'reward_funcs' in inspect.signature(hone.raft).parameters)"
    assert ran(package, "-c", code).stdout.strip() == "True True"
    settings = ["data.train.dataset_name=hone/word-problems", "rewards.functions=[answer]"]
    settings.append("checkpointing.checkpoint_dir=results/planned")  # results/raft has the run of the page
    plan = ran(package, "-m", "hone", "plan", "raft", *settings, "raft.max_num_steps=1")
    assert plan.returncode == 0, plan.stderr
    wrong = ran(package, "-m", "hone", "plan", "raft", *settings, "raft.best_of_prompt=99")
    assert "raft.best_of_prompt=99 is more than raft.num_generations_per_prompt=16" in wrong.stderr


def test_help_loads_neither_torch_nor_pydantic(package: Path) -> None:
    code = (
        "import sys, hone.cli; hone.cli.main(['--help']);"
        "print([name for name in ('torch', 'pydantic', 'raft.config') if name in sys.modules])"
    )
    assert ran(package, "-c", code).stdout.splitlines()[-1] == "[]"
