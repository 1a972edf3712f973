"""Load users' code by name: `path/to/file.py:thing` or `pkg.module.thing`."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import re
import sys
import zlib
from pathlib import Path
from typing import Any

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_FILES = (".jsonl", ".json", ".parquet", ".csv", ".txt", ".gz", ".zst")


class MissingCodeError(Exception):
    """There is no such file or name; the message suggests the most similar one."""


def is_code(target: str) -> bool:
    """Whether a name refers to Python code in a file, or in a module that can be found. Nothing is executed."""
    file, colon, name = target.rpartition(":")
    if colon:
        return file.endswith(".py") and name.isidentifier()
    if not _DOTTED.fullmatch(target) or target.endswith(_FILES) or Path(target).exists():
        return False  # a data file, even if a folder of that name could be imported (run/ beside run.jsonl)
    _add_working_directory()
    try:
        return importlib.util.find_spec(target.split(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def find(target: str) -> Any:
    """The object that a name refers to. Raises MissingCodeError, or any exception of importing its module."""
    file, colon, name = target.rpartition(":")
    if colon:
        path = Path(file).expanduser().resolve()
        if not path.is_file():
            raise MissingCodeError(f"there is no file {path}")
        module = module_from_file(path)
    else:
        _add_working_directory()
        file, _, name = target.rpartition(".")
        module = importlib.import_module(file)
    if not hasattr(module, name):
        near = difflib.get_close_matches(name, list(vars(module)), n=1)
        raise MissingCodeError(
            f"there is no '{name}' in {file}" + (f"; did you mean '{near[0]}'?" if near else "")
        )
    return getattr(module, name)


def module_from_file(path: Path) -> Any:
    """Import a file under a unique module name, so that a file math.py does not replace a library.

    Raises MissingCodeError for a file that is not Python, or any exception that the file raises.
    """
    name = f"hone_user_{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    if name in sys.modules:
        return sys.modules[name]
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last, so that the file can import its neighbours
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise MissingCodeError("is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def search_path() -> list[str]:
    """The module search path for a child process, with the working directory unless that was deleted."""
    try:
        here = os.getcwd()
    except FileNotFoundError:
        return [entry for entry in sys.path if entry]
    path = [entry or here for entry in sys.path]
    return path if here in path else [*path, here]


def _add_working_directory() -> None:
    """Add the working directory to the end of the module search path."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
