"""The root model of each command's configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hone.config.schema.dpo import DPOConfig
from hone.config.schema.evaluation import EvalConfig
from hone.config.schema.online import OnlineConfig
from hone.config.schema.rm import RMConfig
from hone.config.schema.sft import SFTConfig
from hone.lazy import lazy
from hone.registry import specs

SupervisedConfig = SFTConfig | DPOConfig | RMConfig
TrainingConfig = SupervisedConfig | OnlineConfig


class _Roots(Mapping[str, type[Any]]):
    """Root models by command, imported when they are asked for."""

    def __getitem__(self, algorithm: str) -> type[Any]:
        root: type[Any] = EvalConfig if algorithm == "eval" else lazy(specs()[algorithm].config)
        return root

    def __iter__(self) -> Iterator[str]:
        yield from (*specs(), "eval")

    def __len__(self) -> int:
        return len(specs()) + 1


ROOTS = _Roots()


def algorithm_of(config: object) -> str:
    """The command that a configuration is for."""
    return next(algorithm for algorithm, root in ROOTS.items() if type(config) is root)


def section_of(algorithm: str) -> str:
    """The command's own section, which says how long a run is, when it validates and what its seed is."""
    spec = specs().get(algorithm)
    return algorithm if spec is None else spec.section


def own_section(config: object) -> str:
    """The own section of the command that a configuration is for."""
    return section_of(algorithm_of(config))
