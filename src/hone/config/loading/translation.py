"""Translate the user's settings, under any accepted name, to a plain tree of our own keys."""

from __future__ import annotations

import copy
from typing import Any

from pydantic import BaseModel

from hone.config import dialects, keys
from hone.config.alias import Alias, Context, KeyRule, NoEffect, Switch
from hone.config.interpolation import Interpolator
from hone.config.loading.layers import GivenKey, Layer, with_aliases
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
    same,
    shown,
    split_path,
    without_indices,
)
from hone.config.schema import ROOTS, section_of
from hone.errors import ConfigError


class KeyTranslation:
    """Our keys from a user's tree. `problems` lists what is wrong, under the names that the user wrote; `ignored`
    lists the keys that have no effect, by reason."""

    def __init__(
        self, algorithm: str, base: dict[str, Any], user: dict[str, Any], layers: list[Layer]
    ) -> None:
        self.algorithm, self.root = algorithm, ROOTS[algorithm]
        self.problems: list[str] = []
        self.given: dict[Path, list[GivenKey]] = {}
        self.ignored: dict[str, list[Path]] = {}
        self._aliases, self._rules = dialects.aliases(algorithm), dialects.rules(algorithm)
        self._computed: list[GivenKey] = []
        self._ruled: list[Path] = []
        self._foreign: list[Path] = []
        self._tree = merge(base, self._without_nulls(user))
        self._interpolator = Interpolator(with_aliases(self._tree, self._aliases))
        self._classify(layers)

    def run(self) -> dict[str, Any]:
        """All of our keys, resolved, for the schema to validate."""
        self._translate()
        self._apply_rules()
        result = self._resolved(self.root, ())
        for path in self._foreign:
            drop(result, path)  # such as data.train.processor, beside keys of ours
        return result

    def value_given(self, target: Path) -> Any:
        """The value of our key, also before `run`: the user's under any name, else the base's."""
        if target not in self.given:
            return self.value(target)
        return self._translated(self._winner(target, self.given[target]), report=False)

    # What the user wrote, key by key

    def _without_nulls(self, user: dict[str, Any]) -> dict[str, Any]:
        """Without nulls that mean "not given": of sections and of derived keys."""
        user = copy.deepcopy(user)
        for path, value in list(leaves(user)):
            found = keys.find(self.root, path)
            if value is None and (found.what == "section" or keys.derived_text(self.root, path) is not None):
                drop(user, path)
        return user

    def _classify(self, layers: list[Layer]) -> None:
        """Each leaf is a key of ours (whose value an alias of its own path translates), an alias of one, a key with a
        rule, or a problem."""
        unknown: dict[Path, list[Path]] = {}
        for number, layer in enumerate(layers):
            for path in layer.paths:
                value = get(self._tree, path)
                if value is MISSING or (isinstance(value, dict) and value):
                    continue  # a later layer removed it, or filled it
                found, alias = keys.find(self.root, path), self._alias(path)
                if found.what == "key":
                    self.given.setdefault(path, []).append(GivenKey(number, path, alias))
                elif found.what == "section":
                    self._expect_section(path)
                elif alias is not None:
                    self._foreign.append(path)
                    self._add(GivenKey(number, path, alias), alias)
                elif self.is_foreign(path):
                    self._foreign.append(path)
                    self._ruled.append(path)
                elif value not in (None, {}) or not self._is_foreign_section(path):
                    unknown.setdefault(path[: found.known + 1], []).append(path)
        accepted = set(self._aliases) | {rule.pattern for rule in self._rules if "*" not in rule.pattern}
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
        names = [*self._aliases, *(rule.pattern for rule in self._rules)]
        return any(name.startswith(f"{dotted(path)}.") for name in names)

    def _alias(self, path: Path) -> Alias | None:
        """The alias at a path, if its section is in use."""
        alias = self._aliases.get(".".join(without_indices(path)))
        if alias is None or alias.when is None or self._is_on(alias.when):
            return alias
        return None

    def _add(self, given: GivenKey, alias: Alias) -> None:
        if alias.compute is not None:
            self._computed.append(given)
            return
        for target in alias.to:
            self.given.setdefault(self._target(given.path, target), []).append(given)

    def _target(self, path: Path, target: str) -> Path:
        """Our path for an alias's target; an index into a list of datasets is kept."""
        found = split_path(target)
        for head in ENTRY_LISTS:
            if path[: len(head)] == head and isinstance(path[len(head)], int) and found[: len(head)] == head:
                return (*head, path[len(head)], *found[len(head) :])
        return into_entry(self._tree, found)

    # Values

    def value(self, path: Path) -> Any:
        """The resolved value at `path`. If it cannot be resolved: MISSING, and a problem is added."""
        try:
            return self._interpolator.value(path)
        except ConfigError as error:
            follows = get(self._tree, path) == keys.derived_text(self.root, path)  # the other key is reported
            if not follows and str(error) not in self.problems:
                self.problems.append(str(error))
            return MISSING

    def _ours(self, key: str) -> Any:
        value = self.value(split_path(key))
        return None if value is MISSING else value

    def _is_on(self, switch: Switch) -> bool:
        if switch.unless is not None and self.value(split_path(switch.unless)) is True:
            return False
        value = self.value(split_path(switch.key))
        return switch.default if value is MISSING else value in switch.on

    def _translate(self) -> None:
        """Set our keys to translated values; twice, so that interpolations of translated keys are resolved."""
        for last in (False, True):
            for target, candidates in self.given.items():
                winner = self._winner(target, candidates, report=last)
                if winner.alias is None and len(candidates) == 1:
                    continue
                value = self._translated(winner, report=last)
                if value is not MISSING:
                    put(self._tree, target, value)
            self._interpolator = Interpolator(with_aliases(self._tree, self._aliases))
        for given in self._computed:
            self._compute(given)

    def _translated(self, given: GivenKey, *, report: bool) -> Any:
        value = self.value(given.path)
        if value is MISSING or given.alias is None or given.alias.value is None:
            return value
        try:
            return given.alias.value(value)
        except ValueError as error:
            if report:
                self.problems.append(f"{dotted(given.path)}={shown(value)}: {error}")
            return MISSING

    def _winner(self, target: Path, candidates: list[GivenKey], *, report: bool = False) -> GivenKey:
        """The candidate of the latest layer; within a layer our own name first. With `report`, disagreement is a
        problem."""
        latest = [given for given in candidates if given.layer == max(item.layer for item in candidates)]
        beaten = {name for given in latest if given.alias for name in given.alias.beats}
        standing = [
            given for given in latest if ".".join(without_indices(given.path)) not in beaten
        ] or latest
        winner = next((given for given in standing if given.path == target), standing[0])
        mine = self._translated(winner, report=False)
        for other in standing if report else ():
            theirs = self._translated(other, report=False)
            if theirs is not MISSING and mine is not MISSING and theirs != mine:
                self.problems.append(
                    f"{dotted(winner.path)}={shown(self.value(winner.path))} and {dotted(other.path)}="
                    f"{shown(self.value(other.path))} are two spellings of one setting with different values: "
                    "keep one of them"
                )
        return winner

    def _compute(self, given: GivenKey) -> None:
        value = self.value(given.path)
        if value is MISSING or given.alias is None or given.alias.compute is None:
            return
        context = Context(
            section_of(self.algorithm),
            ours=self._ours,
            written=lambda key: self.value(split_path(key)),
            given=lambda key: self.layer_of(split_path(key)) >= given.layer,
        )
        try:
            results = given.alias.compute(value, context)
        except ValueError as error:
            self.problems.append(f"{dotted(given.path)}={shown(value)}: {error}")
            return
        except NoEffect as reason:
            self.ignored.setdefault(str(reason), []).append(given.path)
            return
        for name, result in results.items():
            target = into_entry(self._tree, split_path(name))
            if self.layer_of(target) > given.layer:
                continue
            put(self._tree, target, result)
            self.given.setdefault(target, []).append(given)
        self._interpolator = Interpolator(with_aliases(self._tree, self._aliases))

    def layer_of(self, target: Path) -> int:
        """The latest layer that gave our key under any name, or -1."""
        return max((given.layer for given in self.given.get(target, ())), default=-1)

    # Keys that Hone does not have

    def _apply_rules(self) -> None:
        for path in dict.fromkeys(self._ruled):
            rules = (rule for rule in self._rules if rule.matches(without_indices(path)))
            if not any(self._decides(rule, path) for rule in rules):
                self.problems.append(f"{dotted(path)}: Hone has no such setting; remove it")

    def _decides(self, rule: KeyRule, path: Path) -> bool:
        """Whether the rule applies to the key, which is then recorded; otherwise the next rule is tried."""
        if rule.while_off is not None and self._is_on(rule.while_off):
            return False
        if rule.ignored_at is not None and not any(same(self.value(path), item) for item in rule.ignored_at):
            return False
        if rule.allowed is None:
            self.ignored.setdefault(rule.reason, []).append(path)
            return True
        value, allowed = self.value(path), rule.allowed
        accepted = (
            allowed(value, self._ours) if callable(allowed) else any(same(value, item) for item in allowed)
        )
        if not accepted and value is not MISSING:
            self.problems.append(f"{dotted(path)}={shown(value)}: {rule.reason}")
        return True

    # The result

    def _resolved(self, model: type[BaseModel], path: Path) -> dict[str, Any]:
        """A section with all of its keys."""
        result: dict[str, Any] = {}
        for name, field in model.model_fields.items():
            inner, is_list = keys.submodel(field.annotation)
            if inner is not None and not is_list:
                result[name] = self._resolved(inner, (*path, name))
                continue
            value = self.value((*path, name))
            if value is not MISSING:
                result[name] = value
        entries = [p[len(path)] for p in self.given if keys.named_entry(model, p, len(path), path)]
        for entry in dict.fromkeys(entries):
            result[str(entry)] = self._resolved(model.named_entries, (*path, entry))  # type: ignore[attr-defined]
        return result

    def is_foreign(self, path: Path) -> bool:
        """Whether the path is an alias, or a key that there is a rule for."""
        names = without_indices(path)
        return ".".join(names) in self._aliases or any(rule.matches(names) for rule in self._rules)

    def as_written(self, path: Path) -> str:
        """Our key under the name that the user wrote."""
        for length in range(len(path), 0, -1):
            candidates = self.given.get(path[:length])
            if candidates:
                winner = self._winner(path[:length], candidates)
                return dotted((*winner.path, *path[length:]))
        return dotted(path)
