"""What reward functions report by `log_metric`: its columns, held-out rows apart, over a resume."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import GRPO, hone, metric_rows, succeeded, workplace

FUNCTIONS = """
def told(prompts, completions, log_metric, trainer_state, **columns):
    log_metric("held_out", float(len(completions) != 8))  # a step has 8 completions, validation has not
    return [float(len(c) % 3) for c in completions]

def named(completions, log_metric, name, **columns):
    log_metric(name, 7.0)
    return [1.0] * len(completions)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = workplace(tmp_path_factory.mktemp("logged"))
    (where / "told.py").write_text(FUNCTIONS)
    return where


@pytest.mark.slow
def test_validation_has_columns_of_its_own_and_a_resume_loses_no_row(place: Path) -> None:
    run = (*GRPO, "rewards.functions=[{path: told.py:told}]", "grpo.val_period=1", "rewards.num_workers=1",
           "grpo.max_val_samples=3", "checkpointing.checkpoint_dir=run", "checkpointing.save_period=1")  # fmt: skip
    succeeded(hone(*run, "grpo.max_num_steps=2", cwd=place))
    succeeded(hone(*run, "grpo.max_num_steps=4", cwd=place))
    rows = [row for row in metric_rows(place / "run") if row["step"] != "0"]
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert [(row["held_out"], row["val_held_out"]) for row in rows] == [("0", "1")] * 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["step", "reward", "grad_norm", "val_mine"])
def test_a_column_of_the_runs_own_is_not_overwritten(place: Path, name: str) -> None:
    functions = f"rewards.functions=[{{path: told.py:named, kwargs: {{name: {name}}}}}]"
    ended = hone(*GRPO, functions, "grpo.max_num_steps=1", f"checkpointing.checkpoint_dir={name}", cwd=place)
    assert ended.code == 1
    assert f"log_metric('{name}', …), but '{name}' is a column of the run" in ended.err
