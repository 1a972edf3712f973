"""Folders of runs that never ran. Not a test itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from hone.config.schema import ROOTS
from hone.tracking import RunFolder
from hone.tracking.metrics_csv import MetricTable
from hone.tracking.run_info import write_end, write_start

HOSTILE = (
    "</script><script>document.title='owned'</script>"
    "<img src=x onerror=\"document.title='owned'\"> \x1b[31m\u2028 ✓"
)


def record(step: int, group: str, reward: float | None, **more: Any) -> dict[str, Any]:
    """A rollout as it is logged."""
    return {
        "step": step,
        "group": group,
        "prompt": [{"role": "user", "content": f"question of {group}"}],
        "completion": f"said at {step} for {reward}",
        "rewards": {} if reward is None else {"answer": reward, "format": 1.0},
        "reward": reward,
        "advantage": None if reward is None else reward - 0.5,
        "finish": "stop",
        "num_tokens": 7,
        "logprob": -0.25,
        "version": step - 1,
        "failure": "timeout in reward 'answer': it took 10 s" if reward is None else None,
        "excluded": None,
        "answer": "42",
        **more,
    }


def write(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(one)}\n" for one in records))


def make_run(
    root: Path,
    kind: str = "grpo",
    steps: int = 4,
    *,
    said: str | None = None,
    ended: bool = True,
    **logger: Any,
) -> Path:
    """A run's folder: at each step a group with 0, 1 and a failure, and a group with 1, 1."""
    config = ROOTS[kind]().model_dump(warnings=False)
    config["logger"] |= logger
    config["checkpointing"]["checkpoint_dir"] = str(root)
    folder = RunFolder(root)
    folder.write_config(yaml.safe_dump(config))
    write_start(folder, algorithm=kind, total_steps=steps, step=0)
    table = MetricTable(folder.metrics, None)
    online = kind in ("grpo", "ppo", "distill")
    for step in range(1, steps + 1):
        row = {"reward": step / 10, "reward_answer": step / 10, "reward_format": 1.0, "entropy": 1 / step}
        table.add(
            step, {**(row if online else {"train_loss": 1 / step, "val_loss": 2 / step}), "grad_norm": 0.5}
        )
        if online and logger.get("log_rollouts", True):
            told = {} if said is None else {"completion": said}
            mixed = [record(step, f"rows:1@{step}", reward, **told) for reward in (0.0, 1.0, None)]
            even = [record(step, f"rows:2@{step}", 1.0, excluded="truncated") for _ in range(2)]
            write(folder.rollout_file(step), mixed + even)
    table.close()
    if online:
        write(folder.validation_file(steps), [record(steps, "held:0", 1.0), record(steps, "held:1", 0.0)])
    (root / f"step_{steps}").mkdir()
    if ended:
        write_end(folder, step=steps, stopped=None, error=None)
    return root
