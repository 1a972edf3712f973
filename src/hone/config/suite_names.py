"""Names of the evaluation suites: the YAML files in hone/evaluation/suites."""

from __future__ import annotations

import difflib
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "evaluation" / "suites"


def suite_names() -> list[str]:
    """All names, in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def unknown_suite(name: str) -> str | None:
    """What is wrong with the name of a suite, which may also be a YAML file; None for one that exists."""
    if name.endswith((".yaml", ".yml")):
        return None if Path(name).is_file() else f"there is no file {name}"
    if name in suite_names():
        return None
    near = difflib.get_close_matches(name.casefold(), suite_names(), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"there is no suite '{name}'; {hint}The suites: {', '.join(suite_names())}; or a YAML file"
