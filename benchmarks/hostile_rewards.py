"""Thousands of hostile completions through the reward pool: is the run alive, is each counted, is anything left?

python benchmarks/hostile_rewards.py [--count 10000] [--workers 2] [--out results/hostile_rewards.json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hostile_completions import COLUMNS, PATTERN, SCHEMA, Hostile, completions

from hone.rollout.rewards.resolve import resolve_all
from hone.rollout.rewards.reward_pool import RewardPool
from hone.rollout.rewards.scoring_batch import Scored
from hone.rollout.sandbox import SandboxLimits

LIMITS = SandboxLimits(timeout_s=1.0, memory_mb=256, max_processes=16, disk_mb=16, output_kb=256)
JUDGES: list[dict[str, Any]] = [
    {"name": "math", "datasets": ["math"]},
    {"name": "code", "datasets": ["code"]},
    {"name": "json_schema", "datasets": ["json_schema"], "kwargs": {"schema": SCHEMA}},
    {"name": "regex", "datasets": ["regex"], "kwargs": {"pattern": PATTERN}},
]


def open_pool(workers: int, timeout_s: float = 2.0) -> RewardPool:
    """All four functions, each for its own completions; any number of them may fail."""
    specs = resolve_all(JUDGES)
    return RewardPool(specs, workers, timeout_s, 1.0, memory_limit_mb=2048, sandbox=LIMITS)


async def judge(pool: RewardPool, batch: list[Hostile]) -> list[Scored]:
    """The scores of a batch, each by the function that it is for."""
    columns = {name: [value] * len(batch) for name, value in COLUMNS.items()}
    sources = [(one.judge, "") for one in batch]
    return await pool.score(["2+2?"] * len(batch), [one.text for one in batch], columns, sources=sources)


def cause(one: Hostile, scored: Scored) -> str:
    """What became of it, as counted."""
    if scored.failure is not None:
        return scored.failure.split(":")[0].split(" (")[0][:80]
    what = scored.extra.get("code_outcome")
    return f"scored {scored.reward:g} by {one.judge}" + (f": {what}" if what else "")


def wrong(batch: list[Hostile], scored: list[Scored]) -> list[str]:
    """Honest ones that did not get their reward, and hostile ones that got 1."""
    pairs = zip(batch, scored, strict=True)
    return [
        f"{h.judge}/{h.kind}: {s.reward} {s.failure} {s.extra}"
        for h, s in pairs
        if (s.reward != h.reward if h.reward is not None else s.reward == 1.0)
    ]


def processes_left() -> list[str]:
    """Processes of pools and sandboxes that this process started, and of users that only sandboxes have."""
    left = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            status = Path(f"/proc/{name}/status").read_text()
        except OSError:
            continue
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        mine = b"hone-sandbox" in command and str(os.getpid()).encode() in command
        child = fields["PPid"].strip() == str(os.getpid()) and b"hone-reward-worker" in command
        if mine or child:
            left.append(f"{name} {command[-3:]}")
    return left


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    drawn = completions(options.count, options.seed)
    report = asyncio.run(run(drawn, options.batch, options.workers))
    print(json.dumps(report, indent=1))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")


async def run(drawn: list[Hostile], size: int, workers: int) -> dict[str, Any]:
    """Judge all, and say what became of them."""
    counted: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    bad: list[str] = []
    begin = time.monotonic()
    with open_pool(workers) as pool:
        notes = pool.notes
        for start in range(0, len(drawn), size):
            batch = drawn[start : start + size]
            scored = await judge(pool, batch)
            counted.update(cause(*pair) for pair in zip(batch, scored, strict=True))
            bad += wrong(batch, scored)
            counts.update({k: int(v) for k, v in pool.metrics().items() if k.startswith("workers_")})
            print(f"{start + len(batch)} of {len(drawn)}, {time.monotonic() - begin:.0f} s", flush=True)
    seconds = time.monotonic() - begin
    return {
        "completions": len(drawn),
        "counted": sum(counted.values()),
        "wrongly judged": bad[:20],
        "processes left": processes_left(),
        "seconds": round(seconds, 1),
        "per second": round(len(drawn) / seconds, 1),
        "workers": workers,
        **counts,
        "isolation": notes,
        "load average": [round(x, 1) for x in os.getloadavg()],
        "date": time.strftime("%Y-%m-%d"),
        "by cause": dict(counted.most_common()),
    }


if __name__ == "__main__":
    main()
