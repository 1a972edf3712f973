"""CPU and wall seconds of whole commands on the embedded task: another checkout against this one, in turn.

    git worktree add ../before COMMIT
    python benchmarks/against_commit.py ../before --pairs 5 --commands dpo rm

Both run in this environment, one thread each, start included. The ratio is this checkout's over the other's, pair by
pair: below 1 this one is faster. CPU seconds are those of the command and of all processes that it waited for; on a
machine with other work they say more than wall seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
STEPS = {
    "sft": ["sft.max_num_steps=150"],
    "dpo": ["dpo.max_num_steps=50"],
    "rm": ["rm.max_num_steps=200"],
    "grpo": ["grpo.max_num_steps=20"],
    "ppo": ["ppo.max_num_steps=10"],
    "distill": ["distillation.max_num_steps=60"],
}
"""So that each takes 15 to 30 seconds of CPU."""


def main() -> None:
    """Print the table and its raw numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("--pairs", type=int, default=5, help="runs of each, in turn")
    parser.add_argument("--commands", nargs="+", choices=list(STEPS), default=list(STEPS))
    options = parser.parse_args()
    sides = {"before": options.before.resolve() / "src", "now": HERE / "src"}
    for command in options.commands:
        seconds = measured(command, sides, options.pairs)
        print(json.dumps({command: seconds}), flush=True)
        print(row(command, seconds), flush=True)


def measured(command: str, sides: dict[str, Path], pairs: int) -> dict[str, list[tuple[float, float]]]:
    """(CPU, wall) seconds of each run; which side begins alternates."""
    found: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for pair in range(pairs):
        for side in list(sides) if pair % 2 == 0 else list(sides)[::-1]:
            found[side].append(once(command, sides[side]))
    return found


def once(command: str, source: Path) -> tuple[float, float]:
    """One run from a folder of its own."""
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "hone", command, *STEPS[command]],
            **{"cwd": folder, "env": environment, "capture_output": True, "text": True, "check": False},
        )
        wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{command} of {source} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def row(command: str, seconds: dict[str, list[tuple[float, float]]]) -> str:
    """A row of a Markdown table: medians, then the median ratio with the least and the most."""
    cells = []
    for kind in range(2):
        before, now = ([run[kind] for run in seconds[side]] for side in ("before", "now"))
        ratios = [b / a for a, b in zip(before, now, strict=True)]
        cells += [f"{statistics.median(before):.1f}", f"{statistics.median(now):.1f}"]
        cells += [f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"]
    return f"| `hone {command}`, {STEPS[command][0].split('=')[1]} steps | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
