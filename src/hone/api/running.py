"""A run in this process: a script, a notebook, a thread."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hone.api.arguments import arguments_of, named, settings_of
from hone.api.in_memory import Rows, dataset_of, functions_in, keep_rows, reward_entries, with_functions_kept
from hone.api.result import Result
from hone.config import Loaded, load
from hone.config.loading.overrides import Override
from hone.config.nested import Path as KeyPath
from hone.errors import ConfigError, HoneError
from hone.files import disk_full_message
from hone.lazy import lazy
from hone.registry import main_of
from hone.training.process import check_writable, lock_folder

PLACEHOLDER = "rows-in-memory.jsonl"
"""A dataset's name before its rows have a file."""


def train(
    algorithm: str,
    model: Any,
    dataset: Any,
    validation: Any,
    folder: str | Path | None,
    config: str | Path | Mapping[str, Any] | None,
    settings: dict[str, Any],
    reward_funcs: Any = None,
    teacher: Any = None,
) -> Result:
    """Run the algorithm with a call's arguments. Raises HoneError."""
    own = arguments_of(settings, dataset=dataset, validation=validation, folder=folder)
    rows, also = dataset_of(own["dataset"], "dataset")
    held, _ = dataset_of(own["validation"], "validation")
    held = held if held is not None else also
    data: dict[KeyPath, Any] = {("data", "train"): rows, ("data", "validation"): held}
    file, given = _given(algorithm, config, settings, reward_funcs)
    for section, argument, value in (("policy", "model", model), ("teacher", "teacher", teacher)):
        if (name := named(value, argument)) is not None:
            given.append(Override((section, "model_name"), name))
    if own["folder"] is not None:
        given.append(Override(("checkpointing", "checkpoint_dir"), str(own["folder"])))
    loaded = _load(algorithm, file, given, data, None)
    where = Path(loaded.config.checkpointing.checkpoint_dir)
    if _in_memory(given, data):
        may_change = loaded.config.checkpointing.allow_config_change
        check_writable(where, "folder")
        with lock_folder(where, "folder"):  # so that no running run's files are replaced
            loaded = _load(algorithm, file, given, data, where, may_change=may_change)
    summary = work(algorithm, loaded)
    return Result(where, summary)


def ask(
    model: Any,
    dataset: Any,
    reward_funcs: Any,
    folder: str | Path | None,
    config: str | Path | Mapping[str, Any] | None,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Run an evaluation with a call's arguments; returns its report. Raises HoneError."""
    own = arguments_of(settings, dataset=dataset, folder=folder)
    data: dict[KeyPath, Any] = {("data",): dataset_of(own["dataset"], "dataset")[0]}
    file, given = _given("eval", config, settings, reward_funcs)
    if (name := named(model, "model")) is not None:
        given.append(Override(("generation", "model_name"), name))
    if own["folder"] is not None:
        given.append(Override(("eval", "save_path"), str(own["folder"])))
    loaded = _load("eval", file, given, data, None)
    if not _in_memory(given, data):
        return work("eval", loaded)
    with tempfile.TemporaryDirectory(prefix="hone-eval-") as made:
        where = Path(loaded.config.eval.save_path or made)
        return work("eval", _load("eval", file, given, data, where, may_change=True))


def _given(
    algorithm: str, config: str | Path | Mapping[str, Any] | None, settings: dict[str, Any], reward_funcs: Any
) -> tuple[str | None, list[Override]]:
    """The configuration file, and the settings beside it, `config`'s first."""
    weights = settings.pop("reward_weights", None)
    if weights is not None and reward_funcs is None:
        raise ConfigError("reward_weights= is given without reward_funcs=")
    if isinstance(config, Mapping):
        file, given = None, settings_of(algorithm, config)
    elif config is None or isinstance(config, str | Path):
        file, given = None if config is None else str(config), []
    else:
        raise ConfigError(f"config is a {type(config).__name__}: give a YAML file, or settings by their keys")
    given += settings_of(algorithm, settings)
    if reward_funcs is not None:
        given.append(Override(("rewards", "functions"), reward_entries(reward_funcs, weights)))
    return file, given


def _in_memory(given: list[Override], data: Mapping[KeyPath, Any]) -> bool:
    values = (*(override.value for override in given), *data.values())
    return any(isinstance(value, Rows) or functions_in(value) for value in values)


def _load(
    algorithm: Any, file: str | None, given: list[Override], data: Mapping[KeyPath, Any], folder: Path | None, *,
    may_change: bool = False,
) -> Loaded[Any]:  # fmt: skip
    """The configuration. What is in memory is written to `folder`, or without one has a placeholder's name."""
    taken: dict[str, Any] = {}
    overrides = [Override(one.path, with_functions_kept(one.value, folder, taken)) for one in given]
    for path, value in data.items():
        if isinstance(value, Rows):
            name = str(path[-1]) if len(path) > 1 else "test"
            kept = PLACEHOLDER if folder is None else keep_rows(value, folder, name, may_change=may_change)
            overrides.append(Override(path, {"dataset_name": kept}))
        elif value is not None:
            overrides.append(Override(path, with_functions_kept(value, folder, taken)))
    return load(algorithm, file, overrides)


def work(algorithm: str, loaded: Loaded[Any]) -> dict[str, Any]:
    """Run a command's function in this process and restore the process's state. Raises HoneError."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # as the command line does
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    startup = lazy("hone.training.startup")
    startup.enable_offline_if_hub_unreachable(loaded)
    startup.announce(algorithm, loaded)
    try:
        with process_state_restored():
            result: dict[str, Any] = lazy(main_of(algorithm))(loaded)
    except OSError as error:
        if (message := disk_full_message(error)) is None:
            raise
        raise HoneError(message) from error
    if result.get("message"):
        print(result["message"], flush=True)
    return result


@contextlib.contextmanager
def process_state_restored() -> Iterator[None]:
    """Restore signal handlers and the number of torch's threads when the block exits."""
    import torch

    handlers = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for number, handler in handlers.items():
            if handler is not None:  # None: a handler that Python did not install
                signal.signal(number, handler)
