"""Seconds until a run on two ranks trains again after a rank, its raylet or its driver was killed.

    python benchmarks/recovery.py --times 3

From SIGKILL to the first step that comes after. A killed driver is run again at once, by the same command.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

NAMES = {"rank": "ray::EngineWorker", "raylet": "raylet/raylet"}
COMMAND = (
    *("-m", "hone", "sft", "policy.model_name=hone/tiny", "cluster.cpu_workers_per_node=2"),
    *("sft.max_num_steps=100000", "sft.max_num_epochs=100000", "sft.val_period=0", "sft.val_at_start=false"),
    *("checkpointing.save_period=5", "cluster.max_restarts=100", "logger.tensorboard_enabled=false"),
)


def rows(run: Path) -> list[tuple[int, float]]:
    """Each recorded step, and when the file that holds it was last written."""
    try:
        with (run / "metrics.csv").open() as file:
            steps = [int(row["step"]) for row in csv.DictReader(file)]
        return [(step, (run / "metrics.csv").stat().st_mtime) for step in steps]
    except (OSError, KeyError, ValueError, TypeError):
        return []


def until_more(run: Path, after: float, process: subprocess.Popen[bytes]) -> None:
    """Wait for a step that was recorded after a moment."""
    while True:
        found = rows(run)
        if found and found[-1][1] > after:
            return
        if process.poll() is not None:
            sys.exit("the run ended")
        time.sleep(0.02)


def start(run: Path) -> subprocess.Popen[bytes]:
    with said(run).open("ab") as output:
        return subprocess.Popen(
            [sys.executable, *COMMAND, f"checkpointing.checkpoint_dir={run}"],
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def said(run: Path) -> Path:
    return run.with_suffix(".out")


def until_resumed(run: Path, times: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a run has said so many times that it goes on."""
    while said(run).read_text().count("resumed from") < times:
        if process.poll() is not None:
            sys.exit("the run ended:\n" + said(run).read_text()[-2000:])
        time.sleep(0.02)


def children(process: subprocess.Popen[bytes], name: str) -> list[psutil.Process]:
    found = psutil.Process(process.pid).children(recursive=True)
    return [child for child in found if child.is_running() and name in " ".join(child.cmdline())]


def measure(times: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"rank": [], "raylet": [], "driver": []}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        process, kills = start(run), 0
        until_more(run, time.time(), process)
        for _ in range(times):
            for what, seconds in found.items():
                time.sleep(3)
                while not list(run.glob("step_*")):  # there is something to go on from
                    time.sleep(0.1)
                if what == "driver":
                    process.kill()
                    process.wait()
                    began = time.time()
                    process = start(run)
                else:
                    children(process, NAMES[what])[0].kill()
                    began = time.time()
                kills += 1
                until_resumed(run, kills, process)
                until_more(run, time.time(), process)
                seconds.append(time.time() - began)
                print(f"{what}: {seconds[-1]:.1f} s", flush=True)
        process.send_signal(signal.SIGINT)
        process.wait(60)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=3)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    result = measure(parser.parse_args().times)
    print(json.dumps({what: round(statistics.median(seconds), 1) for what, seconds in result.items()}))
