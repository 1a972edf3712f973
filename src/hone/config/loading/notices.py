"""Notices for the user: which names were read as which keys, and which were ignored."""

from __future__ import annotations

from collections.abc import Iterable

from hone.config.loading.translation import KeyTranslation
from hone.config.nested import Path, dotted

MANY = 4
"""More ignored keys of a section than this are counted, not listed."""


def translation_notices(translation: KeyTranslation) -> list[str]:
    """All notices of a translation."""
    return [*_aliases(translation), *_ignored(translation)]


def _aliases(translation: KeyTranslation) -> list[str]:
    read: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for target, candidates in translation.given.items():
        for given in candidates:
            if given.alias is not None and given.path != target:
                pair = (str(given.path[-1]), str(target[-1]))
                read.setdefault((dotted(given.path[:-1]), dotted(target[:-1])), []).append(pair)
    found = []
    for (theirs, ours), pairs in read.items():
        pairs = list(dict.fromkeys(pairs))
        left, right = _braced(a for a, _ in pairs), _braced(b for _, b in pairs)
        theirs = f"{theirs}." if theirs else ""
        found.append(f"read {theirs}{left} as {ours}.{'*' if left == right and len(pairs) > 1 else right}")
    return found


def _ignored(translation: KeyTranslation) -> list[str]:
    others, off = [], []
    for reason, paths in translation.ignored.items():
        if reason.endswith(" is off"):
            off.append(_named(paths))
        else:
            others.append(f"ignored {_named(paths)}: {reason}")
    return [*others, f"ignored, for what they belong to is off: {', '.join(off)}"] if off else others


def _named(paths: list[Path]) -> str:
    """Few keys by name, many by the section that they share."""
    shared = paths[0][:-1]
    while any(path[: len(shared)] != shared for path in paths):
        shared = shared[:-1]
    if len(paths) > MANY and shared:
        return f"{dotted(shared)}.* ({len(paths)} keys)"
    heads: dict[str, list[str]] = {}
    for path in paths:
        heads.setdefault(dotted(path[:-1]), []).append(str(path[-1]))
    return ", ".join(f"{head}.{_braced(last)}" if head else _braced(last) for head, last in heads.items())


def _braced(names: Iterable[str]) -> str:
    unique = list(dict.fromkeys(names))
    return unique[0] if len(unique) == 1 else "{" + ", ".join(unique) + "}"
