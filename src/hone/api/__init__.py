"""Hone from Python: `hone.grpo(model=..., reward_funcs=[...], dataset=...)` and its siblings, on the same engine as the
commands.

    arguments.py   arguments -> settings     memory.py   data and functions that are in memory -> files of the run
    running.py     a run in this process     result.py   what comes back

A call is the command of the same name: what it is given in memory is written into the run's folder first, so that
config.yaml there is a whole run, which the command line, or the same call, goes on with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hone.api.result import Result
from hone.api.running import ask, train

__all__ = ["Result", "convert", "distill", "dpo", "evaluate", "grpo", "load_run", "ppo", "rm", "sft"]

Config = str | Path | Mapping[str, Any] | None
"""A YAML file, or settings by dotted keys."""


def sft(model: Any = None, dataset: Any = None, *, validation: Any = None, folder: str | Path | None = None,
        config: Config = None, **settings: Any) -> Result:  # fmt: skip
    """Supervised fine-tuning, as `hone sft`.

    model: a Hugging Face name or a folder. dataset, validation: a name or path, a list of dicts, a `datasets.Dataset`,
    a data frame. folder: the run's; the same call again goes on in it. config: a YAML file, or settings by dotted
    keys. settings: sections as dicts (`policy={...}`), or TRL's names of common ones (`learning_rate=1e-5`). What is
    given here wins over `config`.

    Raises HoneError for all that is expected to go wrong, Interrupted after Ctrl-C.
    """
    return train("sft", model, dataset, validation, folder, config, settings)


def dpo(model: Any = None, dataset: Any = None, *, validation: Any = None, folder: str | Path | None = None,
        config: Config = None, **settings: Any) -> Result:  # fmt: skip
    """Learning from comparisons, as `hone dpo`. Arguments: see `sft`."""
    return train("dpo", model, dataset, validation, folder, config, settings)


def rm(model: Any = None, dataset: Any = None, *, validation: Any = None, folder: str | Path | None = None,
       config: Config = None, **settings: Any) -> Result:  # fmt: skip
    """A reward model, as `hone rm`. Arguments: see `sft`."""
    return train("rm", model, dataset, validation, folder, config, settings)


def grpo(model: Any = None, reward_funcs: Any = None, dataset: Any = None, *, validation: Any = None,
         folder: str | Path | None = None, config: Config = None, **settings: Any) -> Result:  # fmt: skip
    """Reinforcement learning, as `hone grpo`.

    reward_funcs: one or a list of built-in names, `file.py:function`, Python functions with TRL's signature (lambdas
    and what a notebook defines too: they are sent to the processes that run rewards), or entries with `weight` and
    `kwargs`. The other arguments: see `sft`.
    """
    return train("grpo", model, dataset, validation, folder, config, settings, reward_funcs=reward_funcs)


def ppo(model: Any = None, reward_funcs: Any = None, dataset: Any = None, *, validation: Any = None,
        folder: str | Path | None = None, config: Config = None, **settings: Any) -> Result:  # fmt: skip
    """Reinforcement learning with a value model, as `hone ppo`. Arguments: see `grpo`."""
    return train("ppo", model, dataset, validation, folder, config, settings, reward_funcs=reward_funcs)


def distill(model: Any = None, teacher: Any = None, dataset: Any = None, *, validation: Any = None,
            folder: str | Path | None = None, config: Config = None, **settings: Any) -> Result:  # fmt: skip
    """Learning from a teacher's distribution, as `hone distill`. teacher: a name or folder. The others: see `sft`."""
    return train("distill", model, dataset, validation, folder, config, settings, teacher=teacher)


def evaluate(model: Any = None, dataset: Any = None, *, reward_funcs: Any = None, folder: str | Path | None = None,
             config: Config = None, **settings: Any) -> dict[str, Any]:  # fmt: skip
    """Sample answers and score them, as `hone eval`; the report, which is also written to `folder` if there is one."""
    return ask(model, dataset, reward_funcs, folder, config, settings)


def convert(run: str | Path | Result, out: str | Path, *, step: int | None = None, dtype: str = "float32",
            adapter: bool = False) -> Path:  # fmt: skip
    """Write a run's model as a Hugging Face folder, as `hone convert`: of its newest checkpoint, or of `step`."""
    return load_run(run).save(out, step=step, dtype=dtype, adapter=adapter)


def load_run(folder: str | Path | Result) -> Result:
    """The run in a folder, whoever ran it. Raises DataError where there is none."""
    return folder if isinstance(folder, Result) else Result(Path(folder))


def __dir__() -> Iterable[str]:
    return __all__
