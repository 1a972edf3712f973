"""The process that waits for a run: an end that is announced is the end, any other a reason to begin again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from processes import ENVIRONMENT

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from hone.config import load
from hone.errors import WorkerLostError
from hone.training.child_run import run_in_child

folder, what = Path(sys.argv[1]), sys.argv[2]
loaded = load("sft", None, [f"checkpointing.checkpoint_dir={folder}", "cluster.max_restarts=2"])

def run(recovering):
    with open(folder / "tries", "a") as tries:
        print(os.getpid(), recovering, file=tries)
    number = len((folder / "tries").read_text().splitlines())
    if what == "dies twice" and number <= 2:
        os._exit(1)
    if what == "dies but gets on":
        if number == 6:
            return 0
        (folder / f"step_{number}").mkdir()
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "always dies":
        os._exit(1)
    if what == "raises":
        raise KeyError("a defect")
    if what == "waits":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
        (folder / "ready").touch()
        while True:
            time.sleep(0.01)
    return 3

try:
    sys.exit(run_in_child(loaded.config, run))
except WorkerLostError as error:
    print(error, file=sys.stderr)
    sys.exit(9)
"""


def start(folder: Path, what: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), what],
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def tries(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "tries").read_text().splitlines()]


def test_an_end_without_a_word_begins_again(tmp_path: Path) -> None:
    process = start(tmp_path, "dies twice")
    _, told = process.communicate(timeout=60)
    assert process.returncode == 3
    assert [recovering for _, recovering in tries(tmp_path)] == ["False", "True", "True"]
    first = tries(tmp_path)[0][0]
    assert (
        f"the run's process (pid {first}) ended with exit code 1\nresuming from the start in a new process"
        in told
    )


@pytest.mark.slow
def test_deaths_are_counted_from_the_last_checkpoint_on(tmp_path: Path) -> None:
    process = start(tmp_path, "dies but gets on")
    _, told = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "was killed by SIGKILL\nresuming from step_5 in a new process" in told


@pytest.mark.slow
def test_it_ends_when_it_gets_nowhere(tmp_path: Path) -> None:
    process = start(tmp_path, "always dies")
    _, told = process.communicate(timeout=60)
    assert process.returncode == 9
    assert len(tries(tmp_path)) == 3
    assert "cluster.max_restarts=2" in told.splitlines()[-1]


def test_what_a_run_raises_is_no_reason_to_begin_again(tmp_path: Path) -> None:
    process = start(tmp_path, "raises")
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert told.rstrip().endswith("KeyError: 'a defect'")
    assert len(tries(tmp_path)) == 1


def waiting(folder: Path) -> tuple[subprocess.Popen[str], psutil.Process]:
    process = start(folder, "waits")
    deadline = time.monotonic() + 60
    while not (folder / "ready").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process, psutil.Process(int(tries(folder)[0][0]))


def test_a_signal_reaches_the_run_whose_answer_counts(tmp_path: Path) -> None:
    process, _ = waiting(tmp_path)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 7
    assert len(tries(tmp_path)) == 1


def test_a_run_dies_with_its_command(tmp_path: Path) -> None:
    process, child = waiting(tmp_path)
    assert child.pid != process.pid
    process.kill()
    process.wait()
    child.wait(10)


RETURNS = """
import os, sys
from hone.cli import main
code = main(["sft", "cluster.cpu_workers_per_node=2", "data.train.dataset_name=nowhere.jsonl"])
print("returned", code, flush=True)
"""


@pytest.mark.slow
def test_the_command_returns_once_to_who_calls_it(tmp_path: Path) -> None:
    """Also where the run is in a process of its own: the caller's next lines are no second process's."""
    ended = subprocess.run(
        [sys.executable, "-c", RETURNS],
        env={**os.environ, **ENVIRONMENT},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.stdout.count("returned 1") == ended.stdout.count("returned") == 1, ended.stdout
    assert ended.stderr.count("error:") == 1, ended.stderr
