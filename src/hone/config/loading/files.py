"""YAML files: reading, writing, and `defaults:` inheritance."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from hone.config.nested import merge, with_entries
from hone.config.paths import check_local
from hone.errors import ConfigError

_INT = re.compile(r"^[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0|[1-9][\d_]*)$")
_FLOAT = re.compile(
    r"^(?:[-+]?\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|[-+]?\d[\d_]*[eE][-+]?\d+"
    r"|[-+]?\.\d[\d_]*(?:[eE][-+]?\d+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)


def _resolvers(inherited: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Resolvers of YAML 1.1, changed: 5e-6 is a number, 1:30:00 and 2024-01-01 are text."""
    left_out = {f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp")}
    kept = {key: [item for item in items if item[0] not in left_out] for key, items in inherited.items()}
    for tag, pattern, first in (("int", _INT, "-+0123456789"), ("float", _FLOAT, "-+0123456789.")):
        for character in first:
            kept.setdefault(character, []).append((f"tag:yaml.org,2002:{tag}", pattern))
    return kept


if TYPE_CHECKING or not yaml.__with_libyaml__:
    _Base = yaml.SafeLoader
else:
    _Base = yaml.CSafeLoader  # the same, ten times as fast


class _Loader(_Base):
    yaml_implicit_resolvers = _resolvers(yaml.SafeLoader.yaml_implicit_resolvers)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value} is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _resolvers(yaml.SafeDumper.yaml_implicit_resolvers)


DEEPEST = 100
"""Maximum nesting of a configuration."""
LARGEST = 100_000
"""Maximum number of values after expanding YAML aliases."""


def parse(text: str) -> Any:
    """One YAML value. Raises yaml.YAMLError, also for too deep nesting and for aliases that expand too far."""
    if len(text) > 2000 or "*" in text or text.count("[") + text.count("{") > DEEPEST:
        _check_size(text)
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except ValueError as error:  # a number with more digits than Python converts
        raise yaml.YAMLError(f"a number that is too long: {error}") from error


def _check_size(text: str) -> None:
    """Raise MarkedYAMLError for too deep nesting, an alias inside its own anchor, or aliases of aliases that expand
    too far. One pass over the parser's events; no value is built."""
    sizes: dict[str, int] = {}
    within: list[tuple[str | None, int]] = []
    for event in yaml.parse(text, Loader=_Loader):
        size, anchor = 1, getattr(event, "anchor", None)
        if isinstance(event, yaml.CollectionStartEvent):
            within.append((anchor, 1))
            if len(within) > DEEPEST:
                _refuse(event, f"nested more than {DEEPEST} levels deep")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = within.pop()
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == name for name, _ in within):
                _refuse(event, f"*{anchor} is inside its own anchor")
            size = sizes.get(str(anchor), 1)
        elif not isinstance(event, yaml.ScalarEvent):
            continue
        if anchor is not None and not isinstance(event, yaml.AliasEvent):
            sizes[anchor] = size
        if within:
            name, so_far = within[-1]
            within[-1] = (name, so_far + size)
        if max(size, within[-1][1] if within else 0) > LARGEST + len(text):
            _refuse(event, f"aliases expand to more than {LARGEST} values")


def _refuse(event: yaml.Event, problem: str) -> NoReturn:
    raise yaml.MarkedYAMLError(None, None, problem, event.start_mark)  # type: ignore[arg-type]


def dump(tree: Any) -> str:
    """YAML text from which `parse` restores the tree."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError: no such file, invalid YAML (with its line), not a mapping."""
    check_local(path, "--config")
    try:
        tree = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such configuration file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: invalid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: invalid YAML: {error}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, got {type(tree).__name__}")
    if "apiVersion" in tree and "kind" in tree:
        raise ConfigError(
            f"{path}: is a Kubernetes resource ({tree['kind']}), not a configuration of Hone: "
            "put the settings into a file of their own, and give that as --config"
        )
    return tree


def chain(path: Path, below: tuple[Path, ...] = ()) -> list[tuple[Path, dict[str, Any]]]:
    """The file and all that its `defaults:` names, furthest ancestor first, each with its own settings only.

    Raises ConfigError: a missing file, a cycle.
    """
    resolved = path.expanduser().resolve()
    if resolved in below:
        circle = " -> ".join(str(item) for item in (*below[below.index(resolved) :], resolved))
        raise ConfigError(f"defaults: form a cycle: {circle}")
    tree = read(path)
    parents = tree.pop("defaults", None) or []
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise ConfigError(f"{path}: defaults={parents}: expected a path or a list of paths of YAML files")
    layers: list[tuple[Path, dict[str, Any]]] = []
    for parent in parents:
        target = path.parent / parent
        if not target.exists():
            raise ConfigError(f"{path}: defaults names {parent}, but there is no file {target}")
        layers += chain(target, (*below, resolved))
    return [*layers, (path, with_entries(tree))]


def merged(layers: list[tuple[Path, dict[str, Any]]]) -> dict[str, Any]:
    """All layers merged, later ones over earlier ones."""
    tree: dict[str, Any] = {}
    for _, layer in layers:
        tree = merge(tree, layer)
    return tree
