"""The commands as functions: one for each algorithm of the registry, `evaluate`, `convert` and `load_run`.

A call runs the command of the same name. What is in memory is written into the run's folder first, so that config.yaml
there is complete: the command line, or the same call, can resume the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hone.api.result import Result
from hone.api.running import ask, train
from hone.registry import AlgorithmSpec, ModelRole

Config = str | Path | Mapping[str, Any] | None
"""A YAML file, or settings by dotted keys."""
ARGUMENTS = """

    model: a Hugging Face name or a folder.{further} dataset, validation: a name or path, a list of dicts, a
    `datasets.Dataset`, a data frame. folder: the run's folder; the same call resumes the run in it. config: a YAML
    file, or settings by dotted keys. settings: sections as dicts (`policy={{...}}`), or TRL's names of common settings
    (`learning_rate=1e-5`). Arguments override `config`.

    Raises HoneError for every expected failure, Interrupted after Ctrl-C.
    """
REWARD_FUNCS = """ reward_funcs: one or a list of built-in names, `file.py:function`, Python functions
    with TRL's signature (also lambdas and functions of a notebook, which are sent to the reward processes), or entries
    with `weight` and `kwargs`."""


def function_of(spec: AlgorithmSpec) -> Callable[..., Result]:
    """The function that is the command of an algorithm."""

    def supervised(model: Any = None, dataset: Any = None, *, validation: Any = None,
                   folder: str | Path | None = None, config: Config = None, **settings: Any) -> Result:  # fmt: skip
        return train(spec.name, model, dataset, validation, folder, config, settings)

    def rewarded(model: Any = None, reward_funcs: Any = None, dataset: Any = None, *, validation: Any = None,
                 folder: str | Path | None = None, config: Config = None, **settings: Any) -> Result:  # fmt: skip
        return train(spec.name, model, dataset, validation, folder, config, settings, reward_funcs)

    def call_with_teacher(model: Any = None, teacher: Any = None, dataset: Any = None, *, validation: Any = None,
               folder: str | Path | None = None, config: Config = None, **settings: Any) -> Result:  # fmt: skip
        return train(spec.name, model, dataset, validation, folder, config, settings, None, teacher)

    function: Callable[..., Result] = supervised
    further = ""
    if spec.needs_rewards:
        function, further = rewarded, REWARD_FUNCS
    elif ModelRole.TEACHER in spec.models:
        function, further = call_with_teacher, " teacher: likewise."
    function.__name__ = function.__qualname__ = spec.function
    summary = spec.summary[0].upper() + spec.summary[1:]
    function.__doc__ = f"{summary}; as `hone {spec.name}`." + ARGUMENTS.format(further=further)
    return function


def evaluate(model: Any = None, dataset: Any = None, *, reward_funcs: Any = None, folder: str | Path | None = None,
             config: Config = None, **settings: Any) -> dict[str, Any]:  # fmt: skip
    """Sample answers and score them, as `hone eval`; returns the report, which is also written to `folder` if given."""
    return ask(model, dataset, reward_funcs, folder, config, settings)


def convert(run: str | Path | Result, out: str | Path, *, step: int | None = None, dtype: str = "float32",
            adapter: bool = False) -> Path:  # fmt: skip
    """Write a run's model as a Hugging Face folder, as `hone convert`: of the newest checkpoint, or of `step`."""
    return load_run(run).save(out, step=step, dtype=dtype, adapter=adapter)


def load_run(folder: str | Path | Result) -> Result:
    """The run in a folder. Raises DataError if there is none."""
    return folder if isinstance(folder, Result) else Result(Path(folder))
