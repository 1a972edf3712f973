"""The root model of each command's configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hone.config.schema.evaluation import EvalConfig
from hone.lazy import lazy
from hone.registry import specs


class _Roots(Mapping[str, type[Any]]):
    """Root models by command; each is imported on first use."""

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
    root = f"{type(config).__module__}:{type(config).__qualname__}"
    return next((name for name, spec in specs().items() if spec.config == root), "eval")


def section_of(algorithm: str) -> str:
    """The command's own section, which has the length of a run, its validations and its seed."""
    spec = specs().get(algorithm)
    return algorithm if spec is None else spec.section


def own_section(config: object) -> str:
    """The own section of the command that a configuration is for."""
    return section_of(algorithm_of(config))
