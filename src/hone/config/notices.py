"""Short sentences about what was read as what, and what was ignored."""

from __future__ import annotations

from collections.abc import Iterable

from hone.config.translate import Translation
from hone.config.trees import Path, dotted


def of(translation: Translation) -> list[str]:
    """All notices of a translation."""
    return [*_spellings(translation), *_inert(translation)]


def _spellings(translation: Translation) -> list[str]:
    read: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for target, candidates in translation.given.items():
        for given in candidates:
            if given.spelling is not None and given.path != target:
                pair = (str(given.path[-1]), str(target[-1]))
                read.setdefault((dotted(given.path[:-1]), dotted(target[:-1])), []).append(pair)
    found = []
    for (theirs, ours), pairs in read.items():
        pairs = list(dict.fromkeys(pairs))
        left, right = _braced(a for a, _ in pairs), _braced(b for _, b in pairs)
        found.append(f"read {theirs}.{left} as {ours}.{right}")
    return found


def _inert(translation: Translation) -> list[str]:
    found = []
    for reason, paths in translation.inert.items():
        heads: dict[str, list[str]] = {}
        for path in paths:
            heads.setdefault(dotted(_section(path)), []).append(str(path[-1]))
        names = [
            f"{head}.{_braced(last)}"
            if head and len(last) <= 3
            else f"{head}.* ({len(last)} keys)"
            if head
            else last[0]
            for head, last in heads.items()
        ]
        found.append(f"ignored {', '.join(names)}: {reason}")
    return found


def _section(path: Path) -> Path:
    """Where a group of ignored keys is named: three parts deep at most."""
    return path[: min(3, len(path) - 1)]


def _braced(names: Iterable[str]) -> str:
    unique = list(dict.fromkeys(names))
    return unique[0] if len(unique) == 1 else "{" + ", ".join(unique) + "}"
