"""The settings of a search, from the command line, a YAML file, or both.

Everything is checked before the first trial: every key, and both ends of every range, by loading the configuration.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hone.config import Loaded, load
from hone.config.metric_names import flat_metric
from hone.config.paths import check_local
from hone.config.schema import section_of
from hone.errors import ConfigError
from hone.registry import specs
from hone.tracking.catalogue import better
from hone.tune.space import Parameter, grid, is_range, override, parameter

PRUNERS = ("median", "hyperband", "none")
OWNED = (
    "checkpointing.checkpoint_dir",
    "checkpointing.metric_name",
    "checkpointing.higher_is_better",
    "logger.log_dir",
)
"""Keys that the search sets for each trial."""
FILE_KEYS = (
    *("kind", "config", "search", "overrides", "trials", "parallel", "metric", "direction"),
    *("pruner", "folder", "seed", "keep"),
)


@dataclass(frozen=True)
class Search:
    """The search space and how to search it."""

    algorithm: Any
    """The name of the command."""
    config: str | None
    fixed: tuple[str, ...]
    """Overrides that every trial has."""
    parameters: tuple[Parameter, ...]
    metric: str
    """`val:NAME` or `train:NAME`."""
    maximize: bool
    folder: Path
    trials: int = 20
    parallel: int = 1
    pruner: str = "median"
    seed: int = 0
    keep_all: bool = False
    devices: tuple[str, ...] = ()
    """CUDA_VISIBLE_DEVICES of each of the trials that run at once; () where they need no GPUs of their own."""

    @property
    def column(self) -> str:
        """The metric's column of metrics.csv."""
        return flat_metric(self.metric)

    @property
    def most(self) -> int:
        """The number of trials; no more than there are combinations."""
        every = grid(self.parameters, self.trials)
        return self.trials if every is None else len(every)

    def identity(self) -> dict[str, Any]:
        """The settings that must not change for a search to be resumed."""
        text = Path(self.config).read_text() if self.config is not None else ""
        return {
            "kind": self.algorithm,
            "config": text,
            "overrides": list(self.fixed),
            "search": {p.key: str(p) for p in self.parameters},
            "metric": self.metric,
            "direction": "max" if self.maximize else "min",
        }


def read(options: argparse.Namespace) -> Search:
    """The search that the options describe. Raises ConfigError for anything that would stop a trial."""
    file = _file(options.study)
    config = options.config or file.get("config")
    algorithm, words = _algorithm(list(options.words), file)
    fixed, ranges = _split(words, file)
    if not ranges:
        raise ConfigError(
            "there is nothing to search: give a key a range, such as 'policy.optimizer.kwargs.lr=log(1e-6, 1e-3)'"
        )
    parameters = tuple(parameter(key, text) for key, text in ranges.items())
    loaded = _checked(algorithm, config, fixed, parameters)
    metric = _metric(loaded, options.metric or file.get("metric"))
    load(
        algorithm, config, [*fixed, *_first(parameters), override(OWNED[1], metric)]
    )  # which says what is near it
    _check_measured(loaded, metric)
    maximize = _maximizes(loaded, metric, options.direction or file.get("direction"))
    parallel = _count("parallel", _given(options.parallel, file.get("parallel", 1)))
    search = Search(
        algorithm=algorithm,
        config=config,
        fixed=tuple(fixed),
        parameters=parameters,
        metric=metric,
        maximize=maximize,
        folder=Path(options.folder or file.get("folder", f"results/tune_{algorithm}")),
        trials=_count("trials", _given(options.trials, file.get("trials", 20))),
        parallel=parallel,
        pruner=_one_of("pruner", options.pruner or file.get("pruner", "median"), PRUNERS),
        seed=int(_given(options.seed, file.get("seed", 0))),
        keep_all=_one_of("keep", options.keep or file.get("keep", "best"), ("best", "all")) == "all",
        devices=devices_for(loaded.config.cluster, parallel, visible_devices()),
    )
    check_local(search.folder, "--folder")
    load(algorithm, config, [*fixed, *owned(search, search.folder / "trial"), *_first(parameters)])
    return search


def owned(search: Search, folder: Path) -> list[str]:
    """The overrides that the search sets for a trial in `folder`."""
    return [
        override("checkpointing.checkpoint_dir", str(folder)),
        override("checkpointing.metric_name", search.metric),
        override("checkpointing.higher_is_better", search.maximize),
        "logger.log_dir=null",
    ]


def _file(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        found = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"--study {path} cannot be read: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("search", {}), dict):
        raise ConfigError(f"--study {path}: expected a mapping with the keys {', '.join(FILE_KEYS)}")
    for key in found:
        if key not in FILE_KEYS:
            raise ConfigError(f"--study {path}: unknown key {key!r}; there are {', '.join(FILE_KEYS)}")
    return found


def _algorithm(words: list[str], file: Mapping[str, Any]) -> tuple[Any, list[str]]:
    named = words and "=" not in words[0] and not words[0].startswith("~")
    algorithm = words.pop(0) if named else file.get("kind")
    if algorithm is None:
        raise ConfigError(
            f"hone tune needs the command to search for, one of {', '.join(specs())}: hone tune sft ..."
        )
    return _one_of("command", algorithm, list(specs())), words


def _split(words: Sequence[str], file: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
    """Overrides, and ranges by key. The command line wins over the file."""
    fixed = file.get("overrides") or []
    fixed = [override(key, value) for key, value in fixed.items()] if isinstance(fixed, dict) else list(fixed)
    ranges = {key: str(text) for key, text in (file.get("search") or {}).items()}
    typed = [word for word in words if is_range(word.partition("=")[2])]
    settled = [word for word in words if word not in typed]
    for word in settled:
        ranges.pop(word.partition("=")[0].lstrip("+"), None)
    ranges |= {key: text for key, _, text in (word.partition("=") for word in typed)}
    fixed += settled
    for word in fixed:
        if word.partition("=")[0].lstrip("+") in ranges:
            raise ConfigError(f"{word.partition('=')[0]} is both set and searched: leave one of them out")
    for key in (*ranges, *(word.partition("=")[0].lstrip("+") for word in fixed)):
        if key in OWNED:
            better = {OWNED[0]: "--folder", OWNED[1]: "--metric", OWNED[2]: "--direction"}.get(key, "nothing")
            raise ConfigError(f"{key} is set by the search, for each trial: give {better} in its place")
    return fixed, ranges


def _first(parameters: Sequence[Parameter]) -> list[str]:
    return [override(p.key, p.probes[0]) for p in parameters]


def _checked(
    algorithm: Any, config: str | None, fixed: Sequence[str], parameters: Sequence[Parameter]
) -> Loaded[Any]:
    """The configuration at the low ends of all ranges. Raises ConfigError for a value that the command would refuse."""
    for word in fixed:
        if "=" not in word and not word.startswith("~"):
            raise ConfigError(f"{word!r} is not an override: write key=value, or key=range to search it")
    loaded = load(algorithm, config, [*fixed, *_first(parameters)])
    for searched in parameters:
        rest = [other for other in parameters if other is not searched]
        for value in searched.probes[1:]:
            load(algorithm, config, [*fixed, *_first(rest), override(searched.key, value)])
    return loaded


def _metric(loaded: Loaded[Any], given: str | None) -> str:
    """The metric as `val:NAME` or `train:NAME`."""
    name = given or loaded.config.checkpointing.metric_name
    if name is None:
        raise ConfigError(
            "checkpointing.metric_name is null: say what to search by, such as --metric val_loss"
        )
    return name if ":" in name else f"{'val' if name.startswith('val_') else 'train'}:{name}"


def _check_measured(loaded: Loaded[Any], metric: str) -> None:
    """Raise ConfigError for a held-out metric that no trial measures after its first step: the value of the untrained
    model says nothing about the settings."""
    loop, section = loaded.config.loop, section_of(loaded.algorithm)
    steps, period = loop.max_num_steps, loop.val_period
    first = max(period, getattr(loop, "val_start_at", 0))
    never = period <= 0 or (steps is not None and steps < first)
    if metric.startswith("val:") and never and not loop.val_at_end:
        why = f"{section}.val_period={period}" + (
            f" and {section}.max_num_steps={steps}" if period > 0 else ""
        )
        raise ConfigError(
            f"{why}: no trial measures {flat_metric(metric)} after its first step. Set {section}.val_at_end=true, or "
            "search by a metric of training (--metric train:NAME)"
        )


def _maximizes(loaded: Loaded[Any], name: str, direction: str | None) -> bool:
    """Whether higher values of the metric are better."""
    own = loaded.config.checkpointing.metric_name
    if direction is not None:
        return _one_of("direction", direction, ("min", "max")) == "max"
    if own is not None and flat_metric(name) == flat_metric(own):
        return bool(loaded.config.checkpointing.higher_is_better)
    if sign := better(flat_metric(name)):
        return sign > 0
    if "loss" in name or "error" in name:
        return False
    if "accuracy" in name or "reward" in name or "margin" in name:
        return True
    raise ConfigError(
        f"--metric {name}: say whether more of it is better: --direction max or --direction min"
    )


def _given(typed: Any, other: Any) -> Any:
    return other if typed is None else typed


def _count(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name}={value}: expected a number, at least 1")
    return value


def _one_of(name: str, value: Any, choices: Sequence[str]) -> str:
    if value not in choices:
        raise ConfigError(f"{name} {value!r}: choose one of {', '.join(choices)}")
    return str(value)


def visible_devices() -> list[str]:
    """The GPUs of this machine, by the names that CUDA_VISIBLE_DEVICES has for them. torch is not asked: it is slow."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip()]
    found = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
    return sorted(found, key=int)


def devices_for(cluster: Any, parallel: int, visible: Sequence[str]) -> tuple[str, ...]:
    """The GPUs of each of the trials that run at once. Raises ConfigError where there are too few.

    On a Ray cluster (`cluster.ray_address`) Ray gives each trial's ranks their places.
    """
    if (
        parallel == 1
        or not visible
        or cluster.ray_address is not None
        or cluster.cpu_workers_per_node is not None
    ):
        return ()
    each = cluster.gpus_per_node
    if each == 0:
        return ()
    if each * parallel > len(visible):
        raise ConfigError(
            f"--parallel {parallel} with cluster.gpus_per_node={each} needs {each * parallel} GPUs, and there are "
            f"{len(visible)}: set --parallel {max(1, len(visible) // each)}"
        )
    return tuple(",".join(visible[slot * each : (slot + 1) * each]) for slot in range(parallel))
