"""How a run came and went (`run.json`): when, with what versions of what, for how many steps, and why it ended."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from hone.config.secrets import SECRETS
from hone.tracking.run_folder import RunFolder, write_atomically

LIBRARIES = ("hone", "torch", "transformers", "datasets", "peft", "ray", "trl", "numpy")


def versions() -> dict[str, str]:
    """Of Python and of the libraries that a run's numbers depend on, those that are installed."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found | {"platform": platform.platform()}


def _command() -> str:
    """What was typed."""
    return " ".join(sys.argv[:1] and [sys.argv[0].rpartition("/")[2], *sys.argv[1:]])


def write_start(
    folder: RunFolder, *, kind: str, total_steps: int, step: int, notices: Sequence[str] = ()
) -> None:
    """A process begins, or goes on from `step`. `notices`: what was said of its settings. Raises OSError."""
    story = {
        "kind": kind,
        "total_steps": total_steps,
        "from_step": step,
        "started": now(),
        "command": SECRETS.scrub(_command())[:2000],
        "versions": versions(),
        "notices": [SECRETS.scrub(notice) for notice in notices],
    }
    _write(folder, story)


def write_end(folder: RunFolder, *, step: int, stopped: str | None, error: BaseException | None) -> None:
    """The process ends by itself. Raises OSError."""
    if isinstance(error, Exception | KeyboardInterrupt):
        said = str(error).strip().splitlines()
        stopped = f"{type(error).__name__}: {SECRETS.scrub(said[0])}" if said else type(error).__name__
    _write(folder, read_story(folder) | {"step": step, "ended": now(), "stopped": stopped})


def read_story(folder: RunFolder) -> dict[str, Any]:
    """What is known; nothing of an older run, or where the file is damaged."""
    try:
        found = json.loads(folder.story.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def now() -> str:
    """The time here, as text."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z")


def _write(folder: RunFolder, story: dict[str, Any]) -> None:
    text = json.dumps(story, indent=1, ensure_ascii=False)
    write_atomically(folder.story, text.encode("utf-8", "replace").decode("utf-8") + "\n")
