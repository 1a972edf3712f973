"""`load`: from a file and overrides to a typed, checked configuration.

Layers, lowest first: the schema's defaults; the recipe of the embedded model, if the run trains one; a preset; the
files that `defaults:` names; the file; the command line. Interpolations are resolved in the merged tree.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from hone.config import dialects
from hone.config.checks import all_checks, rollouts
from hone.config.checks.run import validates
from hone.config.checks.unused import unused
from hone.config.checks.values import invalid_values
from hone.config.dependent_defaults import rules
from hone.config.dependent_defaults.settings import Adjustment, Settings
from hone.config.loading import base as lower_layers
from hone.config.loading import files, messages
from hone.config.loading.layers import Layer
from hone.config.loading.notices import translation_notices
from hone.config.loading.overrides import Override, apply_override, parse_override
from hone.config.loading.translation import KeyTranslation
from hone.config.nested import Path, dotted, escape, get, leaves, put, shown, split_path
from hone.config.schema import ROOTS, EvalConfig, OnlineConfig, own_section
from hone.config.schema.run import RewardFunctionConfig
from hone.config.secrets import SECRETS, masked, with_references
from hone.config.suite_names import suite_names
from hone.errors import ConfigError
from hone.registry import specs

Config = TypeVar("Config", bound=BaseModel)


@dataclass
class Loaded(Generic[Config]):
    """A configuration, and notices for the user about how it was read."""

    config: Config
    notices: list[str]
    algorithm: str
    references: dict[Path, str] = field(default_factory=dict)
    """Values that are written to files as references to environment variables."""

    def to_yaml(self) -> str:
        """The resolved configuration, without its secrets (`hone.config.secrets`). Given as --config it loads to an
        equal one, if they came from the environment."""
        tree = SECRETS.hide_all(escape(self.config.model_dump(warnings=False)))
        with_references(tree, self.references)
        for name in ("train", "validation"):
            entries = tree["data"].get(name)
            if entries is not None and len(entries) == 1:
                tree["data"][name] = entries[0]
        return files.dump(tree)


def load(
    algorithm: str,
    config_path: FilePath | str | None,
    overrides: Sequence[str | Override] = (),
) -> Loaded[Any]:
    """The configuration of `hone ALGORITHM`. Raises ConfigError, with everything that is wrong in one message.

    Settings that depend on the devices stay None here: `planning.planner` chooses them when the devices are known.
    """
    user, layers, removed = _user_layers(algorithm, config_path, overrides)
    over_defaults = KeyTranslation(algorithm, lower_layers.schema_defaults(algorithm), user, layers)
    preset = lower_layers.preset(over_defaults)
    base, notices = lower_layers.base_tree(over_defaults, preset, removed, rewarded="rewards" in user)
    translation, config, problems, adjusted = _adjusted(algorithm, base, user, layers)
    problems = [*masked(user), *problems]
    about_suite: list[str] = []
    if config is not None:
        if isinstance(config, EvalConfig):
            about_suite = _suite_of_dataset(config, translation)
        settings = Settings(config, frozenset(translation.given), base)
        for reason, path in unused(settings):
            translation.ignored.setdefault(reason, []).append(split_path(translation.as_written(path)))
    notices += translation_notices(translation)
    if config is not None:
        notices += about_suite
        notices += rules.notices(adjusted, lambda key: f"{key}={shown(_value_of(config, key))}")
        notices += [*_preset_notice(preset, config, translation), *_set_derived_defaults(config, translation)]
        problems += all_checks.problems(config)
    messages.raise_all(problems)
    assert config is not None
    return Loaded(config, notices, algorithm, SECRETS.learn(user, config.model_dump(warnings=False)))


def _adjusted(
    algorithm: str, base: dict[str, Any], user: dict[str, Any], layers: list[Layer]
) -> tuple[KeyTranslation, Any | None, list[str], list[Adjustment]]:
    """The user's settings on top of the base; values of the base that contradict the user's are adjusted."""
    adjusted: dict[str, Adjustment] = {}
    lower = copy.deepcopy(base)
    translation, config, problems = _validated(algorithm, lower, user, layers)
    for _ in range(rules.MAX_ROUNDS):
        if config is None:
            break
        settings = Settings(config, frozenset(translation.given), base, frozenset(adjusted))
        found = rules.adjustments(settings)
        if not found:
            break
        for key, value, _ in found:
            put(lower, split_path(key), value)
        adjusted |= {item.key: item for item in found}
        translation, config, problems = _validated(algorithm, lower, user, layers)
    return translation, config, problems, list(adjusted.values())


def _validated(
    algorithm: str, base: dict[str, Any], user: dict[str, Any], layers: list[Layer]
) -> tuple[KeyTranslation, Any | None, list[str]]:
    """The typed configuration, or None, and what is wrong."""
    translation = KeyTranslation(algorithm, base, user, layers)
    tree = translation.run()
    problems = list(translation.problems)
    try:
        return translation, translation.root.model_validate(tree), problems
    except ValidationError as error:
        return translation, None, problems + messages.sentences(error, translation, tree)


def _value_of(config: Any, key: str) -> Any:
    return get(config.model_dump(warnings=False), split_path(key))


def _user_layers(
    algorithm: str, config_path: FilePath | str | None, overrides: Sequence[str | Override]
) -> tuple[dict[str, Any], list[Layer], list[Path]]:
    """The user's tree, the leaves that each layer sets, and the keys that `~key` removed."""
    chain = files.chain(FilePath(config_path)) if config_path is not None else []
    user = files.merged(chain)
    for spec in specs().values():
        if spec.section in user.keys() - ROOTS[algorithm].model_fields.keys():
            where = config_path if config_path is not None else "this configuration"
            raise ConfigError(
                f"{where} is for {spec.title} (its section `{spec.section}`): run `hone {spec.name}`"
            )
    layers = [Layer(str(path), tuple(leaf for leaf, _ in leaves(tree))) for path, tree in chain]
    problems, command_line, removed = [], list[Path](), list[Path]()
    for given in overrides:
        try:
            override = parse_override(given) if isinstance(given, str) else given
            command_line += apply_override(user, override)
        except ConfigError as error:
            problems.append(str(error))
            continue
        if override.remove:
            removed.append(override.path)
    messages.raise_all([*problems, *invalid_values(user)])
    return user, [*layers, Layer("the command line", tuple(command_line))], removed


def _preset_notice(preset: dict[str, Any], config: Any, translation: KeyTranslation) -> list[str]:
    """The preset's settings that are not overridden by given ones."""
    if not preset:
        return []
    tree = config.model_dump(warnings=False)
    used = [path for path, _ in leaves(preset) if path not in translation.given]
    settings = ", ".join(f"{dotted(path)}={shown(get(tree, path))}" for path in used)
    return [f"{own_section(config)}.preset={config.algorithm.preset}: {settings}"]


def _suite_of_dataset(config: EvalConfig, translation: KeyTranslation) -> list[str]:
    """A data set that has the name of a suite is that suite, unless a file has the name or settings say how to read
    and score it. Returns notices."""
    name = config.data.dataset_name
    own = ("rewards", "env", "data.input_key", "data.output_key", "data.prompt_template", "data.prompt_file")
    if config.eval.has_own_data or name not in suite_names() or FilePath(str(name)).exists():
        return []
    if [key for key in map(dotted, translation.given) if key.startswith(own)]:
        return []
    config.eval.suite = [str(name)]
    return [f"data.dataset_name={name}: the suite of this name, with its prompts and its extraction"]


def _set_derived_defaults(config: Any, translation: KeyTranslation) -> list[str]:
    """Set defaults that depend on other settings. Returns notices about them."""
    notices: list[str] = []
    if isinstance(config, EvalConfig) and config.eval.has_own_data:
        return notices
    if isinstance(config, OnlineConfig | EvalConfig) and not config.rewards.functions:
        names = rollouts.environment_names(config)
        function = dialects.reward_environments().get(names[0]) if len(names) == 1 else None
        if isinstance(config, EvalConfig) and not names and not config.env.path:
            function = "math"
        if function is not None:
            config.rewards.functions = [RewardFunctionConfig(name=function)]
            about = (
                "answers are checked as mathematics (`math`)"
                if function == "math"
                else f"`{function}` is used"
            )
            notices.append(f"rewards.functions was not given: {about}")
    if isinstance(config, EvalConfig):
        return notices
    settings = config.checkpointing
    given = ("checkpointing", "metric_name") in translation.given
    if not given and settings.metric_name is not None and not validates(config):
        settings.metric_name = None
        notices.append("there is no validation to rank checkpoints by: the newest are kept")
    return notices
