"""A run whose workers are lost goes on by itself, and where it cannot it says what to go on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import run

from hone.config.schema.sft import SFTConfig
from hone.errors import WorkerLostError
from hone.training.recovery import run_with_restarts


def lost_after(folder: Path, saved: list[int], max_restarts: int) -> str:
    """What is said in the end by a run whose workers are lost in every attempt; each saves the next of `saved`."""
    config = SFTConfig(checkpointing={"checkpoint_dir": str(folder)}, cluster={"max_restarts": max_restarts})
    steps = iter(saved)

    async def train(recovering: bool) -> dict[str, Any]:
        if (step := next(steps, None)) is not None:
            (folder / f"step_{step}").mkdir(parents=True)
        raise WorkerLostError("rank 1 died")

    with pytest.raises(WorkerLostError) as caught:
        run(run_with_restarts(config, train))
    assert next(steps, None) is None
    return str(caught.value)


def test_a_run_that_loses_too_many_workers_names_its_last_checkpoint(tmp_path: Path) -> None:
    said = lost_after(tmp_path, [2, 4], max_restarts=1)
    assert said.startswith(f"rank 1 died. The last checkpoint is {tmp_path / 'step_4'}")
    assert "step_2" in said


def test_one_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    assert lost_after(tmp_path, [], max_restarts=2) == "rank 1 died. No checkpoint had been written"
