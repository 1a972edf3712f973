"""The process of a trial: runs the training command, and ends when the search does.

    python -m hone.tune.trial_process sft --config ... key=value ...

Standard input is a pipe that closes when the search ends (see `hone.subprocesses`).
"""

from __future__ import annotations

import runpy
import sys

from hone.subprocesses import end_with_parent


def main() -> None:
    """Run the command."""
    end_with_parent(whole_group=True)
    sys.argv[0] = "hone"
    runpy.run_module("hone", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
