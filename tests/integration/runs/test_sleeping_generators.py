"""A generator on the learner's devices gives up memory once a step has its rollouts, before it is trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import run

from hone.config import load
from hone.engine.base import Engine
from hone.engine.local.generator import LocalGenerator
from hone.engine.local.learner import LocalLearner
from hone.training import online


@pytest.mark.slow
def test_generators_sleep_between_sampling_and_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def record(owner: type[Any], name: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        async def recorded(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return await original(*args, **kwargs)

        monkeypatch.setattr(owner, name, recorded)

    record(Engine, "begin_update")
    record(Engine, "sync_weights")
    record(LocalGenerator, "generate")
    record(LocalLearner, "forward_backward")
    given = [
        "grpo.max_num_steps=2",
        "grpo.num_prompts_per_step=2",
        "grpo.val_period=0",
        "grpo.val_at_start=false",
        "grpo.val_at_end=false",
        "policy.train_global_batch_size=16",
        f"checkpointing.checkpoint_dir={tmp_path / 'run'}",
    ]
    run(online.train(load("grpo", None, given)))
    step = ["generate", "begin_update", "forward_backward", "sync_weights"]
    assert calls == ["sync_weights", *step, *step]
