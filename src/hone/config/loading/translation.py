"""From what a user wrote, in any accepted spelling, to a plain tree of our own keys."""

from __future__ import annotations

import copy
from typing import Any

from pydantic import BaseModel

from hone.config import keys
from hone.config.alias import Spelling
from hone.config.compat.nemo_rl.aliases import table
from hone.config.compat.nemo_rl.computed import Inert
from hone.config.compat.nemo_rl.rules import Rule, Switch, matches
from hone.config.compat.nemo_rl.upstream import rules
from hone.config.interpolation import Interpolator
from hone.config.loading.given_view import View
from hone.config.loading.layers import Given, Layer, same, shown, with_aliases
from hone.config.nested import (
    ENTRY_LISTS,
    MISSING,
    Path,
    dotted,
    drop,
    get,
    into_entry,
    leaves,
    merge,
    put,
    split_path,
    without_places,
)
from hone.errors import ConfigError


class Translation:
    """Our keys from a user's tree. `problems` says what was met on the way, in the user's spelling."""

    def __init__(
        self,
        algorithm: str,
        root: type[BaseModel],
        base: dict[str, Any],
        user: dict[str, Any],
        layers: list[Layer],
    ) -> None:
        self.algorithm, self.root = algorithm, root
        self.problems: list[str] = []
        self.given: dict[Path, list[Given]] = {}
        self.inert: dict[str, list[Path]] = {}
        self._spellings, self._rules = table(algorithm), rules(algorithm)
        self._computed: list[Given] = []
        self._ruled: list[Path] = []
        self._foreign: list[Path] = []
        self._tree = merge(base, self._cleaned(user))
        self._interpolator = Interpolator(with_aliases(self._tree, self._spellings))
        self._sort(layers)

    def run(self) -> dict[str, Any]:
        """All of our keys, resolved, for the schema to validate."""
        self._translate()
        self._apply_rules()
        result = self._section(self.root, ())
        for path in self._foreign:
            drop(result, path)  # such as data.train.processor, beside keys of ours
        return result

    def value_given(self, target: Path) -> Any:
        """What our key will be before `run`: the user's value in any spelling, else the base's."""
        if target not in self.given:
            return self.value(target)
        return self._translated(self._winner(target, self.given[target]), report=False)

    # What the user wrote, key by key

    def _cleaned(self, user: dict[str, Any]) -> dict[str, Any]:
        """Without what says nothing: a section that is null, null for a derived key."""
        user = copy.deepcopy(user)
        for path, value in list(leaves(user)):
            found = keys.find(self.root, path)
            if value is None and (found.what == "section" or keys.derived_text(self.root, path) is not None):
                drop(user, path)
        return user

    def _sort(self, layers: list[Layer]) -> None:
        """Give each leaf to our key, to its spelling, to a rule, or to the problems."""
        unknown: dict[Path, list[Path]] = {}
        for number, layer in enumerate(layers):
            for path in layer.paths:
                value = get(self._tree, path)
                if value is MISSING or (isinstance(value, dict) and value):
                    continue  # a later layer took it away, or filled it
                found = keys.find(self.root, path)
                spelling = self._spelling(path)
                if found.what == "key":
                    self.given.setdefault(path, []).append(Given(number, path))
                elif found.what == "section":
                    self._expect_section(path)
                elif spelling is not None:
                    self._foreign.append(path)
                    self._take(Given(number, path, spelling))
                elif self.spelled(path):
                    self._foreign.append(path)
                    self._ruled.append(path)
                elif value not in (None, {}) or not self._is_foreign_section(path):
                    unknown.setdefault(path[: found.known + 1], []).append(path)
        accepted = set(self._spellings) | {rule.pattern for rule in self._rules if "*" not in rule.pattern}
        for head, paths in unknown.items():
            path = paths[0] if len(set(paths)) == 1 else head
            self.problems.append(keys.unknown(self.algorithm, path, accepted))

    def _expect_section(self, path: Path) -> None:
        value = get(self._tree, path)
        if value not in (None, {}):
            self.problems.append(
                f"{dotted(path)}={value}: expected a section, that is, keys below {dotted(path)}"
            )
            put(self._tree, path, {})

    def _is_foreign_section(self, path: Path) -> bool:
        names = [*self._spellings, *(rule.pattern for rule in self._rules)]
        return any(name.startswith(f"{dotted(path)}.") for name in names)

    def _spelling(self, path: Path) -> Spelling | None:
        """The entry of the table for a path, if the section that it belongs to is in use."""
        spelling = self._spellings.get(".".join(without_places(path)))
        if spelling is None or spelling.when is None or self._is_on(spelling.when):
            return spelling
        return None

    def _take(self, given: Given) -> None:
        assert given.spelling is not None
        if given.spelling.compute is not None:
            self._computed.append(given)
            return
        for target in given.spelling.to:
            self.given.setdefault(self._target(given.path, target), []).append(given)

    def _target(self, path: Path, target: str) -> Path:
        """Our path for a spelling's target; a place in a list of datasets is kept."""
        found = split_path(target)
        for head in ENTRY_LISTS:
            if path[: len(head)] == head and isinstance(path[len(head)], int) and found[: len(head)] == head:
                return (*head, path[len(head)], *found[len(head) :])
        return into_entry(self._tree, found)

    # Values

    def value(self, path: Path) -> Any:
        """The resolved value at `path`; what cannot be resolved becomes a problem, and MISSING."""
        try:
            return self._interpolator.value(path)
        except ConfigError as error:
            follows = get(self._tree, path) == keys.derived_text(self.root, path)  # a key that is told itself
            if not follows and str(error) not in self.problems:
                self.problems.append(str(error))
            return MISSING

    def _is_on(self, switch: Switch) -> bool:
        if switch.unless is not None and self.value(split_path(switch.unless)) is True:
            return False
        value = self.value(split_path(switch.key))
        return switch.default if value is MISSING else value in switch.on

    def _translate(self) -> None:
        """Put translated values at our keys; twice, so that what refers to a translated key sees it."""
        for last in (False, True):
            for target, candidates in self.given.items():
                winner = self._winner(target, candidates, report=last)
                if winner.spelling is not None or len(candidates) > 1:
                    self._set(target, self._translated(winner, report=last))
            self._interpolator = Interpolator(with_aliases(self._tree, self._spellings))
        for given in self._computed:
            self._compute(given)

    def _set(self, target: Path, value: Any) -> None:
        if value is not MISSING:
            put(self._tree, target, value)

    def _translated(self, given: Given, *, report: bool) -> Any:
        value = self.value(given.path)
        if value is MISSING or given.spelling is None or given.spelling.value is None:
            return value
        try:
            return given.spelling.value(value)
        except ValueError as error:
            if report:
                self.problems.append(f"{dotted(given.path)}={shown(value)}: {error}")
            return MISSING

    def _winner(self, target: Path, candidates: list[Given], *, report: bool = False) -> Given:
        """The latest layer's; within one layer our own spelling, after making sure that all of them agree."""
        latest = [given for given in candidates if given.layer == max(item.layer for item in candidates)]
        beaten = {name for given in latest if given.spelling for name in given.spelling.beats}
        standing = [given for given in latest if ".".join(without_places(given.path)) not in beaten] or latest
        winner = next((given for given in standing if given.path == target), standing[0])
        mine = self._translated(winner, report=False)
        for other in standing if report else ():
            theirs = self._translated(other, report=False)
            if theirs is not MISSING and mine is not MISSING and theirs != mine:
                self.problems.append(
                    f"{dotted(winner.path)}={shown(self.value(winner.path))} and {dotted(other.path)}="
                    f"{shown(self.value(other.path))} are two spellings of one setting with different "
                    "values: "
                    "keep one of them"
                )
        return winner

    def _compute(self, given: Given) -> None:
        assert given.spelling is not None
        assert given.spelling.compute is not None
        value = self.value(given.path)
        if value is MISSING:
            return
        try:
            results = given.spelling.compute(value, View(self, given.layer))
        except ValueError as error:
            self.problems.append(f"{dotted(given.path)}={shown(value)}: {error}")
            return
        except Inert as reason:
            self.inert.setdefault(str(reason), []).append(given.path)
            return
        for name, result in results.items():
            target = into_entry(self._tree, split_path(name))
            if self.layer_of(target) > given.layer:
                continue
            put(self._tree, target, result)
            self.given.setdefault(target, []).append(given)
        self._interpolator = Interpolator(with_aliases(self._tree, self._spellings))

    def layer_of(self, target: Path) -> int:
        """The latest layer that gave our key in any spelling, or -1."""
        return max((given.layer for given in self.given.get(target, ())), default=-1)

    # Upstream's keys that we do not have

    def _apply_rules(self) -> None:
        for path in dict.fromkeys(self._ruled):
            for rule in self._rules:
                if matches(rule.pattern, without_places(path)) and self._decides(rule, path):
                    break
            else:
                self.problems.append(f"{dotted(path)}: Hone has no such setting; remove it")

    def _decides(self, rule: Rule, path: Path) -> bool:
        if rule.off is not None:
            if not self._is_on(rule.off):
                self.inert.setdefault(rule.reason, []).append(path)
                return True
            return False
        if rule.at is not None and not any(same(self.value(path), item) for item in rule.at):
            return False
        if rule.only is None:
            self.inert.setdefault(rule.reason, []).append(path)
            return True
        value = self.value(path)
        ours = View(self, 0).ours
        accepted = (
            rule.only(value, ours) if callable(rule.only) else any(same(value, item) for item in rule.only)
        )
        if not accepted and value is not MISSING:
            self.problems.append(f"{dotted(path)}={shown(value)}: {rule.reason}")
        return True

    # The result

    def _section(self, model: type[BaseModel], path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for name, field in model.model_fields.items():
            inner, is_list = keys.section_of(field.annotation)
            if inner is not None and not is_list:
                result[name] = self._section(inner, (*path, name))
                continue
            value = self.value((*path, name))
            if value is not MISSING:
                result[name] = value
        entries = [p[len(path)] for p in self.given if keys.named_entry(model, p, len(path), path)]
        for entry in dict.fromkeys(entries):
            result[str(entry)] = self._section(model.named_entries, (*path, entry))  # type: ignore[attr-defined]
        return result

    def spelled(self, path: Path) -> bool:
        """Whether the path is an accepted spelling, or a key of upstream's that there is a rule for."""
        names = without_places(path)
        return ".".join(names) in self._spellings or any(matches(rule.pattern, names) for rule in self._rules)

    def typed_as(self, path: Path) -> str:
        """How the user wrote our key."""
        for length in range(len(path), 0, -1):
            candidates = self.given.get(path[:length])
            if candidates:
                winner = self._winner(path[:length], candidates)
                return dotted((*winner.path, *path[length:]))
        return dotted(path)
