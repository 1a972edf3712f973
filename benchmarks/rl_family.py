"""The GRPO family on the embedded task: held-out accuracy against tokens sampled and CPU time, three seeds of each.

    python benchmarks/rl_family.py                                   all of METHODS, seeds 1 2 3, then a table
    python benchmarks/rl_family.py --methods dapo gspo --seeds 1     some of them
    python benchmarks/rl_family.py --folder runs --table             the table of runs that are there

Every run starts from `hone/tiny-sft`, with 16 prompts x 8 completions a step, four updates of 32 completions on them
(so that ratios leave 1 and clips matter) and a learning rate at which the task takes some fifteen steps; at
2e-4 it is learnt within five. Only the preset differs. `dapo, static` draws each step's prompts once. A run is
a process of its own, one at a time. Accuracy is greedy, on the 256 validation problems.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

from hone.tracking.metrics_csv import read_table

FOUR = [
    "grpo.num_generations_per_prompt=4",
    "policy.train_global_batch_size=16",
    "policy.train_micro_batch_size=16",
]
"""Groups of 4: more of them have equal rewards."""
METHODS: dict[str, list[str]] = {
    "grpo": [],
    "dr_grpo": [],
    "dapo": [],
    "dapo, static": ["grpo.use_dynamic_sampling=false"],
    "dapo, groups of 4": FOUR,
    "dapo, static, groups of 4": ["grpo.use_dynamic_sampling=false", *FOUR],
    "gspo": [],
    "cispo": [],
    "rloo": [],
    "sapo": [],
    "maxrl": [],
    "reinforce_plus_plus_baseline": [],
}
MAIN = ("grpo", "dr_grpo", "dapo", "dapo, static", "gspo", "cispo", "rloo")
SETTINGS = [
    "grpo.max_num_steps=15",
    "grpo.val_period=3",
    "policy.optimizer.kwargs.lr=3e-5",
    "policy.train_global_batch_size=32",
    "policy.train_micro_batch_size=32",
    "checkpointing.enabled=false",
    "logger.log_rollouts=false",
    "logger.tensorboard_enabled=false",
    "cluster.cpu_threads=1",
]
MARKS = (3, 6, 9, 12, 15)
GOAL = 0.9


def run(method: str, seed: int, folder: Path) -> None:
    """One run, unless it is there."""
    target = place(folder, method, seed)
    if len(rows(target)) == MARKS[-1] + 1:
        return
    overrides = [f"grpo.preset={method.split(',')[0]}", f"grpo.seed={seed}", *SETTINGS, *METHODS[method]]
    command = [sys.executable, "-m", "hone", "grpo", *overrides, f"checkpointing.checkpoint_dir={target}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    before = cpu_seconds()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{method}, seed {seed} failed:\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}")
    (target / "cpu_seconds").write_text(f"{cpu_seconds() - before:.2f}")
    print(f"{method}, seed {seed}: {summary(target)}", flush=True)


def cpu_seconds() -> float:
    """Of all that this process started and that has ended: unlike the clock's, what else runs changes it little."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def place(folder: Path, method: str, seed: int) -> Path:
    return folder / f"{method.replace(', ', '-').replace(' ', '_')}-{seed}"


def rows(target: Path) -> list[dict[str, str]]:
    return read_table(target / "metrics.csv")[1]


def curve(target: Path) -> list[tuple[int, float, float]]:
    """Step, tokens sampled so far (thousands), accuracy, at each validation."""
    points, tokens = [], 0.0
    for row in rows(target):
        if row["step"] != "0":
            tokens += float(row["samples"]) * float(row["completion_length"]) / 1000
        if row.get("val_accuracy"):
            points.append((int(row["step"]), tokens, float(row["val_accuracy"])))
    return points


def wall_seconds(target: Path) -> float:
    """The clock's, of a run's steps without validation; only comparable where nothing else ran."""
    return sum(
        float(row["seconds"]) - float(row.get("seconds_validation") or 0)
        for row in rows(target)
        if row["step"] != "0"
    )


def summary(target: Path) -> str:
    return ", ".join(f"{accuracy:.1%} at {step}" for step, _, accuracy in curve(target))


def table(folder: Path, methods: list[str], seeds: list[int]) -> str:
    """Markdown: the mean over seeds after each mark, its lowest at the end, and what the goal took."""
    head = " | ".join(str(mark) for mark in MARKS)
    lines = [
        f"| preset | {head} | lowest seed | k tokens | s | CPU s | k tokens to {GOAL:.0%} | updates to {GOAL:.0%} |",
        "|---" * (len(MARKS) + 7) + "|",
    ]
    for method in methods:
        targets = [place(folder, method, seed) for seed in seeds]
        curves = [curve(target) for target in targets]
        if not all(curves):
            continue
        means = [
            statistics.mean({point[0]: point[2] for point in one}[mark] for one in curves) for mark in MARKS
        ]
        reached = [reach(one) for one in curves]
        cells = [
            method,
            *(f"{100 * mean:.1f}" for mean in means),
            f"{100 * min(one[-1][2] for one in curves):.1f}",
        ]
        spent = [target / "cpu_seconds" for target in targets]
        cells.append(f"{statistics.mean(one[-1][1] for one in curves):.0f}")
        cells.append(f"{statistics.mean(map(wall_seconds, targets)):.1f}")
        cells.append(f"{statistics.mean(float(path.read_text()) for path in spent if path.is_file()):.0f}")
        known = [point for point in reached if point is not None]
        everyone = len(known) == len(curves)
        cells += [
            f"{statistics.mean(point[at] for point in known):.0f}" if everyone else "not all" for at in (0, 1)
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def reach(points: list[tuple[int, float, float]]) -> tuple[float, float] | None:
    """Tokens (thousands) and updates at which a curve first passes the goal, in a line between validations."""
    for (step, tokens, low), (later, more, high) in pairwise(points):
        if high >= GOAL:
            share = min(1.0, max(0.0, (GOAL - low) / (high - low))) if high > low else 1.0
            return tokens + share * (more - tokens), 4 * (step + share * (later - step))
    return None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(MAIN))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--folder", type=Path, default=Path("results/rl_family"))
    parser.add_argument("--table", action="store_true", help="run nothing")
    options = parser.parse_args()
    if not options.table:
        for seed in options.seeds:  # all methods of a seed, so that a machine's drift falls on all alike
            for method in options.methods:
                run(method, seed, options.folder)
    print(table(options.folder, options.methods, options.seeds))


if __name__ == "__main__":
    main()
