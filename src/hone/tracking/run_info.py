"""`run.json`: start and end time, command, versions, steps, and the reason why the run ended."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Sequence
from importlib import metadata

from hone.config.secrets import SECRETS
from hone.files import read_json_object, write_json
from hone.tracking.run_folder import RunFolder

LIBRARIES = ("hone", "torch", "transformers", "datasets", "peft", "ray", "trl", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the installed libraries that a run's numbers depend on."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found | {"platform": platform.platform()}


def write_start(
    folder: RunFolder, *, algorithm: str, total_steps: int, step: int, notices: Sequence[str] = ()
) -> None:
    """Write the start of a process that begins at `step`. `notices`: messages about its settings. Raises OSError."""
    command = " ".join([sys.argv[0].rpartition("/")[2], *sys.argv[1:]]) if sys.argv else ""
    info = {
        "kind": algorithm,
        "total_steps": total_steps,
        "from_step": step,
        "started": now(),
        "command": SECRETS.scrub(command)[:2000],
        "versions": versions(),
        "notices": [SECRETS.scrub(notice) for notice in notices],
    }
    write_json(folder.run_info, info)


def write_end(folder: RunFolder, *, step: int, stopped: str | None, error: BaseException | None) -> None:
    """Add the end of a process, and why it ended. Raises OSError."""
    if isinstance(error, Exception | KeyboardInterrupt):
        lines = str(error).strip().splitlines()
        stopped = f"{type(error).__name__}: {SECRETS.scrub(lines[0])}" if lines else type(error).__name__
    info = read_json_object(folder.run_info)
    write_json(folder.run_info, info | {"step": step, "ended": now(), "stopped": stopped})


def now() -> str:
    """The local time, with its offset from UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z")
