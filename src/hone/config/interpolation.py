"""`${…}` in configurations: OmegaConf's interpolation with the resolvers mul, add, div, ceil and max.

`${NAME}` in capitals, where no key of that name exists, is the environment variable NAME.
"""

from __future__ import annotations

import copy
import functools
import math
import os
import re
from collections.abc import Callable
from functools import reduce
from typing import Any

from hone.config.nested import Path, dotted, get, split_path
from hone.errors import ConfigError

LONGEST = 1_000_000
"""Maximum characters of a value after interpolation."""
_REFERENCE = re.compile(r"(?<!\\)\$\{(\.*)([\w.\[\]-]+)\}")
_ENVIRONMENT = re.compile(r"(?<!\\)\$\{([A-Z][A-Z0-9_]*)\}")


def _divide(left: float, right: float) -> float:
    if isinstance(left, int) and isinstance(right, int) and left % right == 0:
        return left // right
    return left / right


def _known(compute: Callable[..., Any]) -> Callable[..., Any]:
    """`compute`, but null if any argument is null (a value that is chosen later)."""
    return lambda *values: None if None in values else compute(*values)


@functools.cache
def omega_conf() -> Any:
    """The class OmegaConf with these resolvers. It is imported on first use, since the import takes 50 ms."""
    from omegaconf import OmegaConf

    register = getattr(OmegaConf, "register_resolver", None) or OmegaConf.register_new_resolver
    register("mul", _known(lambda *values: math.prod(values)), replace=True)
    register("add", _known(lambda *values: sum(values)), replace=True)
    register("div", _known(lambda *values: reduce(_divide, values)), replace=True)
    register("ceil", _known(lambda value: math.ceil(value)), replace=True)
    register("max", _known(lambda *values: max(values)), replace=True)
    return OmegaConf


class Interpolator:
    """Resolves single values of a tree on demand; a value that is never read may be unresolvable."""

    def __init__(self, tree: dict[str, Any]) -> None:
        self._tree = tree
        self._sizes: dict[Path, int] = {}

    @functools.cached_property
    def _root(self) -> Any:
        """Created at the first interpolation: most values have none."""
        return omega_conf().create(self._with_environment(self._tree))

    def _with_environment(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._with_environment(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._with_environment(item) for item in value]
        return _ENVIRONMENT.sub(self._variable, value) if isinstance(value, str) else value

    def _variable(self, found: re.Match[str]) -> str:
        name = found.group(1)
        return found.group(0) if name in self._tree or name not in os.environ else f"${{oc.env:{name}}}"

    def value(self, path: Path) -> Any:
        """The resolved value at `path`, or MISSING. Raises ConfigError naming the key that cannot be resolved."""
        value = get(self._tree, path)
        if not _has_interpolation(value):
            return copy.deepcopy(value) if isinstance(value, dict | list) else value
        from omegaconf.errors import OmegaConfBaseException

        self._check_size(path)
        try:
            node, conf = self._root, omega_conf()
            for part in path:
                node = node[part]
            return conf.to_container(node, resolve=True) if conf.is_config(node) else node
        except OmegaConfBaseException as error:
            raise ConfigError(_explain(error, path)) from error
        except (TypeError, ZeroDivisionError) as error:  # from a resolver: ${div:1,0}, ${mul:a,b}
            raise ConfigError(f"{dotted(path)}: cannot compute its value: {error}") from error

    def _check_size(self, path: Path) -> None:
        """Raise ConfigError if nested interpolations would expand a value to more than LONGEST characters."""
        if self._size(path, ()) > LONGEST:
            raise ConfigError(
                f"{dotted(path)}: its value has more than {LONGEST} characters after interpolation"
            )

    def _size(self, path: Path, above: tuple[Path, ...]) -> int:
        if path in above:  # a cycle: resolving it reports the error
            return 1
        if path not in self._sizes:
            self._sizes[path] = self._measured(get(self._tree, path), path, (*above, path))
        return self._sizes[path]

    def _measured(self, value: Any, path: Path, above: tuple[Path, ...]) -> int:
        if isinstance(value, dict):
            return sum(self._size((*path, key), above) for key in value)
        if isinstance(value, list):
            return sum(self._size((*path, index), above) for index in range(len(value)))
        if not isinstance(value, str):
            return 1
        found = 0
        for dots, name in _REFERENCE.findall(value):
            start = path[: len(path) - len(dots)] if dots else ()
            found += self._size((*start, *split_path(name)), above)
        return min(len(value) + found, 10 * LONGEST)


def _has_interpolation(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_interpolation(item) for item in value.values())
    if isinstance(value, list):
        return any(_has_interpolation(item) for item in value)
    return isinstance(value, str) and "${" in value


def _explain(error: Any, path: Path) -> str:
    """The message for an OmegaConfBaseException."""
    key = error.full_key or dotted(path)
    reason = (str(error.msg or error).strip().splitlines() or ["cannot be resolved"])[0]
    if (resolver := re.search(r"Unsupported interpolation type (\w+)", reason)) is not None:
        return f"{key}: there is no ${{{resolver.group(1)}:…}}; there are mul, add, div, max, ceil and oc.env"
    missing = re.search(r"Interpolation key '(.+?)' not found", reason)
    if missing:
        name = missing.group(1)
        variable = " and no such environment variable is set" if re.fullmatch("[A-Z][A-Z0-9_]*", name) else ""
        return f"{key}: its value refers to ${{{name}}}, but there is no key {name}{variable}"
    if "Recursive interpolation" in reason or "recursion" in reason.lower():
        return f"{key}: its value refers to itself"
    return f"{key}: {reason}"
