"""Expected failures. Each message names the cause and the fix.

The command line prints only the message, without a traceback, and exits with `exit_code`. Any other exception is a
defect of Hone and keeps its traceback.
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
    """An invalid configuration: an unknown key, a wrong type, two settings that exclude each other."""

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
    """Training that cannot continue: a loss or gradient that is not finite."""


class WeightSyncError(HoneError):
    """A generator that cannot receive the version of the weights from which it has to sample."""

    def __init__(self, wanted: int, found: int | None, reason: str) -> None:
        super().__init__(wanted, found, reason)
        self.wanted, self.found, self.reason = wanted, found, reason

    def __str__(self) -> str:
        found = "no version" if self.found is None else f"version {self.found}"
        return f"the generator needs weights of version {self.wanted}, but there is {found}: {self.reason}"


class GeneratorError(HoneError):
    """A generation server that does not answer, refuses a request, or does not fit the run."""


class ReportError(HoneError):
    """A plot or report of a run that could not be made. The run itself is not affected."""


class ClusterError(HoneError):
    """Nodes that cannot be used: an unreachable address, too few of them, another version of Hone."""


class WorkerLostError(ClusterError):
    """A worker died, hung or lost its connection. The run resumes from its last checkpoint with a new worker."""


class Interrupted(HoneError):
    """The run was stopped by Ctrl-C or SIGTERM, after its state was saved."""

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
    """The shell command that installs `what` for this Python; a bare `pip` often belongs to another Python."""
    python, here = Path(sys.executable), Path.cwd()
    shown = os.path.relpath(python, here) if python.is_relative_to(here) else python
    if not what.startswith("hone["):
        return f'{shown} -m pip install "{what}"'
    # From the checkout: on the package index the name belongs to another project.
    source, extra = Path(__file__).resolve().parents[2], what.removeprefix("hone")
    if not (source / "pyproject.toml").is_file():
        return f"{shown} -m pip install -e '.{extra}', in Hone's source folder"
    folder = os.path.relpath(source, here) if source.is_relative_to(here) else source
    return f"{shown} -m pip install -e '{folder}{extra}'"
