"""Expected failures. Each message names the cause and the fix.

The command line prints the message alone (no traceback) and exits with `exit_code`. Anything that is not a
`HoneError` is a defect of Hone and keeps its traceback.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from pathlib import Path


class HoneError(Exception):
    """Base of all expected failures."""

    exit_code = 1


class ConfigError(HoneError):
    """A configuration that cannot be run: unknown key, wrong type, two settings that exclude each other."""

    exit_code = 2


class DataError(HoneError):
    """A missing or empty dataset, a row without a needed column, a prompt longer than the context."""


class ModelError(HoneError):
    """A model or tokenizer that cannot be loaded or used."""


class RewardError(HoneError):
    """A reward function that cannot be used: not importable, wrong length, fails on more rows than allowed."""


class CheckpointError(HoneError):
    """A checkpoint that is damaged, does not match the run, or could not be written."""


class TrainingError(HoneError):
    """Training that cannot go on: a loss or gradient that is not finite."""


class WeightSyncError(HoneError):
    """A generator that cannot receive the version of the weights that it has to sample from."""

    def __init__(self, wanted: int, found: int | None, reason: str) -> None:
        super().__init__(wanted, found, reason)
        self.wanted, self.found, self.reason = wanted, found, reason

    def __str__(self) -> str:
        found = "no version" if self.found is None else f"version {self.found}"
        return f"weights of version {self.wanted} were to be received, but there is {found}: {self.reason}"


class GeneratorError(HoneError):
    """A generation server that is gone, refuses, or is not what the run needs."""


class ReportError(HoneError):
    """A plot or report of a run that could not be made. The run itself is not affected."""


class ClusterError(HoneError):
    """Nodes that cannot be used: an unreachable address, too few of them, another version of Hone."""


class WorkerLostError(ClusterError):
    """A worker died, hung or lost its connection. The run resumes from its last checkpoint with another one."""


class Interrupted(HoneError):
    """Ctrl-C or SIGTERM, after the state was saved."""

    exit_code = 130


def visible(text: str) -> str:
    """The text with escapes for control characters and lone surrogates (`\\x1b`, `\\udcff`), except newlines and
    tabs."""
    return "".join(
        char
        if char in "\n\t" or (unicodedata.category(char) not in ("Cc", "Cs") and char not in _TURNS)
        else char.encode("unicode_escape").decode()
        for char in text
    )


_TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Unicode characters that change the direction of text."""


def install_command(what: str) -> str:
    """The shell command that installs `what` for this Python; a bare `pip` is often another Python's."""
    python, here = Path(sys.executable), Path.cwd()
    shown = os.path.relpath(python, here) if python.is_relative_to(here) else python
    if not what.startswith("hone["):
        return f'{shown} -m pip install "{what}"'
    # From the checkout: on the package index another project has the name.
    source, extra = Path(__file__).resolve().parents[2], what.removeprefix("hone")
    if not (source / "pyproject.toml").is_file():
        return f"{shown} -m pip install -e '.{extra}', in Hone's source folder"
    folder = os.path.relpath(source, here) if source.is_relative_to(here) else source
    return f"{shown} -m pip install -e '{folder}{extra}'"
