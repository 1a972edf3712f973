"""The root of each command's configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hone.config.schema.evaluation import EvalConfig
from hone.lazy import lazy
from hone.registry import specs


class _Roots(Mapping[str, type[Any]]):
    """Root models by command, imported when they are asked for."""

    def __getitem__(self, kind: str) -> type[Any]:
        root: type[Any] = EvalConfig if kind == "eval" else lazy(specs()[kind].config)
        return root

    def __iter__(self) -> Iterator[str]:
        yield from (*specs(), "eval")

    def __len__(self) -> int:
        return len(specs()) + 1


ROOTS = _Roots()


def kind_of(config: object) -> str:
    """The command that a configuration is of."""
    return next(kind for kind, root in ROOTS.items() if type(config) is root)
