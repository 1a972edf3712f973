"""The process of a trial: runs the real command, and ends when the search does.

    python -m hone.tune.trial_process DESCRIPTOR sft --config ... key=value ...

`DESCRIPTOR` is the reading end of a pipe whose other end the search holds open (see `hone.subprocesses`).
"""

from __future__ import annotations

import runpy
import sys

from hone.subprocesses import end_with_parent


def main() -> None:
    """Run the command."""
    end_with_parent(
        int(sys.argv[1]), whole_group=True
    )  # the session is this trial's own; its checkpoints stay
    sys.argv = ["hone", *sys.argv[2:]]
    runpy.run_module("hone", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
