"""The settings of a search: from the command line, from a YAML file, or from both.

All of them are checked before the first trial. The configuration is loaded with both ends of every range.
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
FILE_KEYS = "kind config search overrides trials parallel metric direction pruner folder seed keep".split()


@dataclass(frozen=True)
class Search:
    """The search space and how to search it."""

    algorithm: Any
    """The name of the command."""
    config: str | None
    """The YAML file of settings that every trial starts from."""
    fixed: tuple[str, ...]
    """Overrides of every trial."""
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
    """CUDA_VISIBLE_DEVICES of each concurrent trial; () if the trials need no GPUs of their own."""

    @property
    def column(self) -> str:
        """The metric's column of metrics.csv."""
        return flat_metric(self.metric)

    @property
    def num_trials(self) -> int:
        """The number of trials: at most the number of combinations."""
        combinations = grid(self.parameters, self.trials)
        return self.trials if combinations is None else len(combinations)

    def identity(self) -> dict[str, Any]:
        """The settings that must be the same when a search is resumed."""
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
    """The search that the options describe. Raises ConfigError for a setting that would make a trial fail."""
    given = _study_file(options.study) | {k: v for k, v in vars(options).items() if v is not None}
    config = given.get("config")
    algorithm, words = _algorithm(list(options.words), given)
    fixed, ranges = _split(words, given)
    if not ranges:
        example = "'policy.optimizer.kwargs.lr=log(1e-6, 1e-3)'"
        raise ConfigError(f"there is nothing to search: give a key a range, such as {example}")
    parameters = tuple(parameter(key, text) for key, text in ranges.items())
    loaded = _checked(algorithm, config, fixed, parameters)
    metric = _metric(loaded, given.get("metric"))
    # An unknown metric: the error suggests the nearest one.
    load(algorithm, config, [*fixed, *_first(parameters), override(OWNED[1], metric)])
    _check_measured(loaded, metric)
    parallel = _count("parallel", given.get("parallel", Search.parallel))
    search = Search(
        algorithm=algorithm,
        config=config,
        fixed=tuple(fixed),
        parameters=parameters,
        metric=metric,
        maximize=_maximizes(loaded, metric, given.get("direction")),
        folder=Path(given.get("folder", f"results/tune_{algorithm}")),
        trials=_count("trials", given.get("trials", Search.trials)),
        parallel=parallel,
        pruner=_one_of("pruner", given.get("pruner", Search.pruner), PRUNERS),
        seed=int(given.get("seed", Search.seed)),
        keep_all=_one_of("keep", given.get("keep", "best"), ("best", "all")) == "all",
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


def _study_file(path: str | None) -> dict[str, Any]:
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
            raise ConfigError(f"--study {path}: unknown key {key!r}; the keys are {', '.join(FILE_KEYS)}")
    return {key: value for key, value in found.items() if value is not None}


def _algorithm(words: list[str], given: Mapping[str, Any]) -> tuple[Any, list[str]]:
    named = words and "=" not in words[0] and not words[0].startswith("~")
    algorithm = words.pop(0) if named else given.get("kind")
    if algorithm is None:
        raise ConfigError(f"hone tune needs a command: hone tune COMMAND ..., one of {', '.join(specs())}")
    return _one_of("command", algorithm, list(specs())), words


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+")


def _split(words: Sequence[str], given: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
    """Overrides, and ranges by key. The command line takes precedence over the file."""
    fixed = given.get("overrides", [])
    fixed = [override(key, value) for key, value in fixed.items()] if isinstance(fixed, dict) else list(fixed)
    ranges = {key: str(text) for key, text in given.get("search", {}).items()}
    typed = [word for word in words if is_range(word.partition("=")[2])]
    values = [word for word in words if word not in typed]
    for word in values:
        ranges.pop(_key(word), None)
    ranges |= {key: text for key, _, text in (word.partition("=") for word in typed)}
    fixed += values
    for key in map(_key, fixed):
        if key in ranges:
            raise ConfigError(f"{key} has both a value and a range: leave one of them out")
    for key in (*ranges, *map(_key, fixed)):
        if key in OWNED:
            option = {OWNED[0]: "--folder", OWNED[1]: "--metric", OWNED[2]: "--direction"}.get(key, "nothing")
            raise ConfigError(f"the search sets {key} for each trial: give {option} in its place")
    return fixed, ranges


def _first(parameters: Sequence[Parameter]) -> list[str]:
    return [override(p.key, p.probes[0]) for p in parameters]


def _checked(algorithm: Any, config: Any, fixed: list[str], parameters: Sequence[Parameter]) -> Loaded[Any]:
    """The configuration at the low ends of all ranges. Raises ConfigError for a value that the command would reject."""
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
        raise ConfigError("checkpointing.metric_name is null: name the metric, such as --metric val_loss")
    return name if ":" in name else f"{'val' if name.startswith('val_') else 'train'}:{name}"


def _check_measured(loaded: Loaded[Any], metric: str) -> None:
    """Raise ConfigError for a validation metric that no trial measures after step 0, where the model is untrained."""
    settings, section = loaded.config.algorithm, section_of(loaded.algorithm)
    steps, period = settings.max_num_steps, settings.val_period
    first = max(period, getattr(settings, "val_start_at", 0))
    never = period <= 0 or (steps is not None and steps < first)
    if metric.startswith("val:") and never and not settings.val_at_end:
        settings = f"{section}.val_period={period}"
        settings += f" and {section}.max_num_steps={steps}" if period > 0 else ""
        raise ConfigError(
            f"with {settings} no trial measures {flat_metric(metric)} after step 0. Set {section}.val_at_end=true, or "
            "search by a training metric (--metric train:NAME)"
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
    raise ConfigError(f"--metric {name}: is a higher value better? Give --direction max or --direction min")


def _count(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name}={value}: expected a whole number of at least 1")
    return value


def _one_of(name: str, value: Any, choices: Sequence[str]) -> str:
    if value not in choices:
        raise ConfigError(f"{name} {value!r}: choose one of {', '.join(choices)}")
    return str(value)


def visible_devices() -> list[str]:
    """The GPUs of this machine, named as in CUDA_VISIBLE_DEVICES. Does not import torch, which is slow."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip()]
    found = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
    return sorted(found, key=int)


def devices_for(cluster: Any, parallel: int, visible: Sequence[str]) -> tuple[str, ...]:
    """The GPUs of each concurrent trial. Raises ConfigError if there are too few.

    On a Ray cluster (`cluster.ray_address`) Ray assigns GPUs to each trial's ranks.
    """
    per_trial = cluster.gpus_per_node
    by_ray = cluster.ray_address is not None or cluster.cpu_workers_per_node is not None
    if parallel == 1 or not visible or by_ray or per_trial == 0:
        return ()
    if per_trial * parallel > len(visible):
        raise ConfigError(
            f"--parallel {parallel} with cluster.gpus_per_node={per_trial} needs {per_trial * parallel} GPUs, and "
            f"there are {len(visible)}: set --parallel {max(1, len(visible) // per_trial)}"
        )
    return tuple(",".join(visible[slot * per_trial : (slot + 1) * per_trial]) for slot in range(parallel))
