"""Writes what a call was given in memory to files of the run's folder: `data/train.jsonl`, `functions/NAME.py`.

A function that can be imported is named. Any other (of a notebook or `__main__`, a lambda, a closure) is pickled by
value with cloudpickle; a small module beside the pickle loads it when it is imported, by the processes that run rewards
and by a resumed run.
"""

from __future__ import annotations

import functools
import inspect
import json
import pickle
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import cloudpickle

from hone.errors import CheckpointError, ConfigError, DataError, RewardError
from hone.files import write_atomically

UNPICKLABLE = (pickle.PicklingError, TypeError, AttributeError, ValueError, RecursionError, RuntimeError)
"""Exceptions of pickling locks, open files, generators, frames ..."""
STUB = '''"""`{name}`, as it was given to hone in memory; {pickle} holds it (and unpickling runs code)."""

import pickle
import sys
from pathlib import Path

sys.path += [entry for entry in {path} if entry not in sys.path]  # what it uses may be there
{name} = pickle.loads(Path(__file__).with_name("{pickle}").read_bytes())
{source}'''


class Rows:
    """Rows in memory that are not in a file yet."""

    def __init__(self, rows: list[dict[str, Any]], *, filled: bool = False) -> None:
        """`filled`: from a table, whose nulls stand for keys that a row does not have."""
        self.rows, self.filled = rows, filled

    def text(self, argument: str) -> str:
        """JSON Lines. Raises DataError for a value that JSON does not have."""
        from hone.data.values import tidy_row  # imports torch

        lines = []
        for index, row in enumerate(self.rows):
            try:
                tidied = tidy_row(row, filled=self.filled)
                lines.append(json.dumps(tidied, ensure_ascii=False, default=_as_json))
            except DataError as error:
                raise DataError(f"{argument}, row {index}: {error}") from error
            except (TypeError, ValueError) as error:
                raise DataError(f"{argument}, row {index}: {error}. A row holds what JSON has") from error
        return "".join(f"{line}\n" for line in lines)


def _as_json(value: Any) -> Any:
    if hasattr(value, "isoformat"):  # dates
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


def dataset_of(given: Any, argument: str) -> tuple[Any, Any]:
    """The training and the validation data of an argument, each a setting of `data.train`, Rows, or None. Raises
    DataError for a value that is not data."""
    if given is None or isinstance(given, Rows):
        return given, None
    if isinstance(given, str | Path):
        return {"dataset_name": str(given)}, None
    if isinstance(given, Mapping):
        if "dataset_name" in given:
            return dict(given), None
        if "train" in given:
            held = next((given[name] for name in ("validation", "test") if name in given), None)
            return dataset_of(given["train"], argument)[0], dataset_of(held, argument)[0]
        return Rows(_from_columns(given, argument)), None
    if callable(given) and not isinstance(given, Iterable):
        return {"dataset_name": given}, None
    if hasattr(given, "to_dict") and hasattr(given, "columns"):  # pandas
        return Rows(given.to_dict("records"), filled=True), None
    if not isinstance(given, Iterable) and not (hasattr(given, "__len__") and hasattr(given, "__getitem__")):
        raise DataError(
            f"{argument} is a {type(given).__name__}: give a name or path, a list of dicts or a datasets.Dataset"
        )
    from hone.data.values import is_table

    rows = list(given) if isinstance(given, Iterable) else [given[index] for index in range(len(given))]
    if rows and all(isinstance(row, Mapping) and "dataset_name" in row for row in rows):
        return [dict(row) for row in rows], None
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DataError(f"{argument}, row {index}: is a {type(row).__name__}; a row is a dict of columns")
    if not rows:
        raise DataError(f"{argument} has no rows")
    return Rows([dict(row) for row in rows], filled=is_table(given)), None


def _from_columns(columns: Mapping[str, Any], argument: str) -> list[dict[str, Any]]:
    sizes = {name: len(values) for name, values in columns.items() if isinstance(values, list | tuple)}
    if len(sizes) < len(columns) or len(set(sizes.values())) != 1:
        raise DataError(
            f"{argument} is a dict without dataset_name, and no table either: give lists of one length by column, or a "
            "list of dicts"
        )
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def keep_rows(rows: Rows, folder: Path, name: str, *, may_change: bool = False) -> str:
    """Write rows to `data/NAME.jsonl` of the run's folder; returns the path. Raises CheckpointError if the run has a
    checkpoint and other rows."""
    path = folder / "data" / f"{name}.jsonl"
    text = rows.text("dataset" if name == "train" else name)
    begun = any(folder.glob("step_*"))
    if begun and not may_change and path.is_file() and path.read_text(encoding="utf-8") != text:
        raise CheckpointError(
            f"{folder} is a run on other rows than these ({path} has them): name another folder for a new run, or set "
            "checkpointing={'allow_config_change': True} to go on with these"
        )
    write_atomically(path, text)
    return str(path)


def import_path(function: Callable[..., Any]) -> str | None:
    """`file.py:name` or `package.module.name` by which other processes can import a function; None if they cannot."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if not module or module == "__main__" or not name.isidentifier() or module not in sys.modules:
        return None
    if getattr(sys.modules[module], name, None) is not function:  # a wrapper's, or replaced since
        return None
    file = getattr(sys.modules[module], "__file__", None)
    if file is None or not Path(file).is_file():
        return None
    return f"{module}.{name}" if "." in module else f"{Path(file).resolve()}:{name}"


def keep_function(function: Callable[..., Any], folder: Path, name: str) -> str:
    """The path by which a function can be imported: its own, or that of a file written to the run's folder.

    Raises RewardError for a function that cannot be pickled.
    """
    if (own := import_path(function)) is not None:
        return own
    path = folder / "functions" / f"{name}.py"
    try:
        content = cloudpickle.dumps(function)
    except UNPICKLABLE as error:
        raise RewardError(
            f"the function '{name}' cannot be sent to the processes that run it{_guilty(function)}: {error}. Make what "
            "it needs inside the function, or put it into a file and give `file.py:function`"
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    # What a function holds may be secret, such as the key of a service.
    write_atomically(path.with_suffix(".pkl"), content, mode=0o600)
    text = STUB.format(name=name, pickle=f"{name}.pkl", path=_own_path(), source=_source(function))
    write_atomically(path, text)
    return f"{path}:{name}"


def _own_path() -> list[str]:
    """Folders of sys.path that another Python process would not have."""
    shared = {Path(base).resolve() for base in (sys.prefix, sys.base_prefix)}
    found = [Path(entry or ".").resolve() for entry in sys.path]
    return [str(entry) for entry in found if entry.is_dir() and not shared & {entry, *entry.parents}]


def name_of(function: Callable[..., Any], index: int) -> str:
    """The name of a function in metrics: its own, or `function_N` if it has none."""
    inner = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    name = getattr(inner, "__name__", None) or type(inner).__name__
    return name if name.isidentifier() else f"function_{index + 1}"


def _guilty(function: Callable[..., Any]) -> str:
    """Which of the values that a function uses cannot be pickled."""
    plain = inspect.unwrap(function)
    if not inspect.isfunction(plain):
        return ""
    used = inspect.getclosurevars(plain)
    for name, value in {**used.globals, **used.nonlocals}.items():
        try:
            cloudpickle.dumps(value)
        except UNPICKLABLE:
            return f" (it uses `{name}`, a {type(value).__name__})"
    return ""


def _source(function: Callable[..., Any]) -> str:
    """The function's source as comments, for readers of the run's folder."""
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):
        return ""
    text = re.sub(r"[^\S\n]+$", "", text.expandtabs(4), flags=re.MULTILINE)
    return "\n" + "".join(f"# {line}".rstrip() + "\n" for line in text.splitlines()[:200])


def reward_entries(given: Any, weights: Any) -> list[Any]:
    """`reward_funcs` as entries of `rewards.functions`, functions still in memory. Raises ConfigError."""
    items = list(given) if isinstance(given, list | tuple) else [given]
    entries: list[dict[str, Any]] = []
    for index, item in enumerate(items):
        if isinstance(item, Mapping):
            entries.append(dict(item))
        elif isinstance(item, str):
            entries.append({"path" if ":" in item or "." in item else "name": item})
        elif callable(item):
            entries.append({"name": name_of(item, index), "path": item})
        else:
            raise ConfigError(
                f"reward_funcs[{index}] is a {type(item).__name__}: give a name, `file.py:function`, or a function"
            )
    if weights is not None:
        if len(weights) != len(entries):
            raise ConfigError(f"reward_weights has {len(weights)} numbers for {len(entries)} reward_funcs")
        entries = [{**entry, "weight": float(weight)} for entry, weight in zip(entries, weights, strict=True)]
    return entries


def functions_in(value: Any) -> bool:
    """Whether there is a function anywhere in a setting."""
    if isinstance(value, Mapping):
        return any(map(functions_in, value.values()))
    if isinstance(value, list):
        return any(map(functions_in, value))
    return callable(value)


def with_functions_kept(value: Any, folder: Path | None, taken: dict[str, Any]) -> Any:
    """A setting with its functions replaced by the paths to import them by; without a folder, by placeholders. `taken`:
    the names so far, so that two functions of one name do not share a file."""
    if isinstance(value, Mapping):
        return {key: with_functions_kept(item, folder, taken) for key, item in value.items()}
    if isinstance(value, list):
        return [with_functions_kept(item, folder, taken) for item in value]
    if not callable(value):
        return value
    name = own = name_of(value, len(taken))
    while taken.setdefault(name, value) is not value:
        name = f"{own}_{len(taken)}"
    return f"in_memory.py:{name}" if folder is None else keep_function(value, folder, name)
