"""Runs a command that ends with the process that started it: `python guardian.py COMMAND ...`.

Standard input is a pipe that the parent holds and never writes to. The command and all that it starts are one process
group, which is killed when the pipe closes. A process of its own waits for that: a parent that ends may kill its
children (Ray's workers do), and so this one, but not their children. Only the standard library is imported.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys


def kill_group_with_parent() -> None:
    """Wait for the end of the pipe. SIGKILL, which no server of the group can handle."""
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    if os.fork() == 0:
        kill_group_with_parent()
    sys.exit(subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL))
