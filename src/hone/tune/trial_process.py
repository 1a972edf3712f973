"""A trial's process: the real command, which does not outlive the search that started it.

    python -m hone.tune.trial_process DESCRIPTOR sft --config ... key=value ...

`DESCRIPTOR` is the reading end of a pipe that the search holds open and never writes to: its end is the search's.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def main() -> None:
    """Run the command."""
    descriptor = int(sys.argv[1])
    threading.Thread(target=_die_with_it, args=(descriptor,), daemon=True).start()
    sys.argv = ["hone", *sys.argv[2:]]
    runpy.run_module("hone", run_name="__main__", alter_sys=True)


def _die_with_it(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    os.killpg(os.getpgid(0), signal.SIGKILL)  # the session is this trial's own; its checkpoints stand


if __name__ == "__main__":
    main()
