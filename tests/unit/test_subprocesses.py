"""A child ends with its parent, also when the parent is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

CHILD = """
import os, sys, time
from hone.subprocesses import end_with_parent
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    os.close(writing)
    end_with_parent(reading)
    time.sleep(60)
print(child, flush=True)
time.sleep(60)
"""


def running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_child_ends_when_its_parent_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert running(child)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while running(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    ended = not running(child)
    if not ended:
        os.kill(child, signal.SIGKILL)
    assert ended
