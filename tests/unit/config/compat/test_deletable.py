"""The names of other frameworks stand apart: Hone runs on its own names with either folder of `compat` deleted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[4] / "src" / "hone"
FOREIGN = {
    "nemo_rl": ("policy.dtensor_cfg.enabled=true", "policy.dtensor_cfg"),
    "trl": ("learning_rate=1e-4", "learning_rate"),
}
"""A setting in each dialect, and the name by which it is refused without the folder."""
OWN = """
import sys
from hone.config import load
from hone.config.reference_table import explained
from hone.config.schema import ROOTS
from hone.errors import ConfigError

assert "torch" not in sys.modules
for algorithm in ROOTS:
    load(algorithm, None, [])
loaded = load("sft", None, ["lr=1e-4", "epochs=1", "model=hone/tiny", "batch_size=8", "max_steps=1"]).config
assert loaded.policy.optimizer.kwargs["lr"] == 1e-4 and loaded.policy.train_global_batch_size == 8
try:
    load("sft", None, ["policy.optimizr.name=x"])
except ConfigError as error:
    assert "did you mean policy.optimizer.name?" in str(error), error
else:
    raise AssertionError("a mistyped key was accepted")
assert "policy.model_name" in explained("sft", None)
"""
FOREIGN_SETTING = """
import sys
from hone.config import load
from hone.errors import ConfigError

override, name, expected = sys.argv[1:]
try:
    load("sft", None, [override])
    outcome = "accepted"
except ConfigError as error:
    assert name in str(error), error
    outcome = "refused"
assert outcome == expected, (override, outcome)
"""


@pytest.fixture(
    params=[(), ("nemo_rl",), ("trl",), ("nemo_rl", "trl")], ids=lambda names: "+".join(names) or "none"
)
def copy_without(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, tuple[str, ...]]:
    """A copy of the package without some folders of `compat`, and their names."""
    shutil.copytree(SOURCE, tmp_path / "hone", ignore=shutil.ignore_patterns("__pycache__"))
    for name in request.param:
        shutil.rmtree(tmp_path / "hone" / "config" / "compat" / name)
    return tmp_path, request.param


def run(folder: Path, *arguments: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *arguments], env=env, cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_own_names_load_without_the_other_dialects(copy_without: tuple[Path, tuple[str, ...]]) -> None:
    folder, _ = copy_without
    run(folder, "-c", OWN)


def test_foreign_names_are_accepted_with_their_folder_and_refused_by_name_without_it(
    copy_without: tuple[Path, tuple[str, ...]],
) -> None:
    folder, deleted = copy_without
    for dialect, (override, name) in FOREIGN.items():
        run(folder, "-c", FOREIGN_SETTING, override, name, "refused" if dialect in deleted else "accepted")


def test_help_and_settings_are_shown_without_the_other_dialects(
    copy_without: tuple[Path, tuple[str, ...]],
) -> None:
    folder, _ = copy_without
    assert "--config" in run(folder, "-m", "hone", "sft", "--help")
    assert "policy.model_name" in run(folder, "-m", "hone", "config", "sft")


@pytest.mark.slow
def test_a_training_step_runs_without_the_other_dialects(
    copy_without: tuple[Path, tuple[str, ...]], tmp_path: Path
) -> None:
    folder, _ = copy_without
    short = ["sft.max_num_steps=1", "batch_size=4", "sft.val_at_start=false", "data.train.limit=8"]
    run(folder, "-m", "hone", "sft", *short, "cluster.gpus_per_node=0", f"output_dir={tmp_path / 'run'}")
    assert (tmp_path / "run" / "metrics.csv").read_text().count("\n") == 2
