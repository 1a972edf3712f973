"""`load`: from a file and overrides to a typed, checked configuration.

Layers, lowest first: the schema's defaults; the recipe of the embedded model, if the run is about one; a preset; the
files that `defaults:` names; the file; the command line. Interpolations are resolved when all are together.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, Generic, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from hone.config import keys
from hone.config.checks import online, run
from hone.config.checks.unused import dormant
from hone.config.checks.values import unsound
from hone.config.dependent_defaults import ROUNDS, Follow, Settings, follow, told
from hone.config.loading import files, messages, notices, overrides
from hone.config.loading.layers import Layer, shown
from hone.config.loading.translation import Translation
from hone.config.nested import Path, dotted, drop, escape, get, leaves, merge, put, split_path
from hone.config.schema import (
    ROOTS,
    DatasetSource,
    EvalConfig,
    OnlineConfig,
)
from hone.config.schema.grpo import Preset
from hone.config.schema.run import RewardFunctionConfig
from hone.config.secrets import SECRETS, masked, with_references
from hone.errors import ConfigError
from hone.registry import specs

AnyConfig = Any
"""A root of `ROOTS`."""
Config = TypeVar("Config", bound=BaseModel)


def _model_of(algorithm: str) -> Path:
    """The setting that names the model of a run."""
    return ("generation" if algorithm == "eval" else "policy", "model_name")


@dataclass
class Loaded(Generic[Config]):
    """A configuration, and what the user should know about how it was read."""

    config: Config
    notices: list[str] = field(default_factory=list)
    algorithm: str = "sft"
    references: dict[Path, str] = field(default_factory=dict)
    """What stays a reference to an environment variable when it is written down."""

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
    overrides: Sequence[str | overrides.Override] = (),
) -> Loaded[Any]:
    """The configuration of `hone KIND`. Raises ConfigError, with everything that is wrong in one message.

    What is left to be chosen for the devices (null) is chosen when they are known (`engine.planner`).
    """
    user, layers, removed = _user_layers(algorithm, config_path, overrides)
    root = ROOTS[algorithm]
    schema = keys.defaults(root)
    first = Translation(algorithm, root, schema, user, layers)
    name = first.value_given(_model_of(algorithm))
    recipe, said = _recipe(algorithm, name, first, rewarded="rewards" in user)
    preset = _preset(algorithm, first)
    base = merge(merge(schema, recipe), preset)
    for part in ("policy", "value"):
        _trim_optimizer(base, first, part)
    for path in removed:
        _restore(base, schema, path, first)
    translation, config, problems, moved = _agreed(algorithm, base, user, layers)
    problems = [*masked(user), *problems]
    if config is not None:
        settings = Settings(algorithm, config, frozenset(translation.given), base)
        for reason, path in dormant(settings):
            translation.inert.setdefault(reason, []).append(split_path(translation.typed_as(path)))
    said += notices.of(translation)
    if config is not None:
        said += told(moved, lambda key: f"{key}={shown(_value_of(config, key))}")
        said += [*_said_of_preset(preset, config, translation), *_complete(config, translation)]
        problems += [*_needs_data(algorithm, config), *run.check(config)]
    messages.raise_all(problems)
    assert config is not None
    return Loaded(config, said, algorithm, SECRETS.learn(user, config.model_dump(warnings=False)))


def _agreed(
    algorithm: str, base: dict[str, Any], user: dict[str, Any], layers: list[Layer]
) -> tuple[Translation, AnyConfig | None, list[str], list[Follow]]:
    """The user's settings on top of the base, of which gives way what stands against them."""
    moved: dict[str, Follow] = {}
    lower = copy.deepcopy(base)
    translation, config, problems = _validated(algorithm, lower, user, layers)
    for _ in range(ROUNDS):
        if config is None:
            break
        settings = Settings(algorithm, config, frozenset(translation.given), base, frozenset(moved))
        found = follow(settings)
        if not found:
            break
        for key, value, _ in found:
            put(lower, split_path(key), value)
        moved |= {item.key: item for item in found}
        translation, config, problems = _validated(algorithm, lower, user, layers)
    return translation, config, problems, list(moved.values())


def _validated(
    algorithm: str, base: dict[str, Any], user: dict[str, Any], layers: list[Layer]
) -> tuple[Translation, AnyConfig | None, list[str]]:
    """The typed configuration, or None and what is wrong."""
    root = ROOTS[algorithm]
    translation = Translation(algorithm, root, base, user, layers)
    tree = translation.run()
    problems = list(translation.problems)
    try:
        return translation, root.model_validate(tree), problems
    except ValidationError as error:
        return translation, None, problems + messages.sentences(error, translation, tree)


def _value_of(config: AnyConfig, key: str) -> Any:
    return get(config.model_dump(warnings=False), split_path(key))


def _user_layers(
    algorithm: str, config_path: FilePath | str | None, texts: Sequence[str | overrides.Override]
) -> tuple[dict[str, Any], list[Layer], list[Path]]:
    """The user's tree, which layer sets which leaves, and what `~key` took away."""
    chain = files.chain(FilePath(config_path)) if config_path is not None else []
    user = files.merged(chain)
    for spec in specs().values():
        if spec.section in user.keys() - ROOTS[algorithm].model_fields.keys():
            where = config_path if config_path is not None else "this configuration"
            raise ConfigError(
                f"{where} is for {spec.title} (its section `{spec.section}`): run `hone {spec.name}`"
            )
    layers = [Layer(str(path), tuple(place for place, _ in leaves(tree))) for path, tree in chain]
    problems, command_line, removed = [], list[Path](), list[Path]()
    for text in texts:
        try:
            override = overrides.parse(text) if isinstance(text, str) else text
            command_line += overrides.apply(user, override)
        except ConfigError as error:
            problems.append(str(error))
            continue
        if override.remove:
            removed.append(override.path)
    messages.raise_all([*problems, *unsound(user)])
    return user, [*layers, Layer("the command line", tuple(command_line))], removed


def _recipe(
    algorithm: str, name: Any, first: Translation, *, rewarded: bool
) -> tuple[dict[str, Any], list[str]]:
    """What suits the embedded model, if the run is about one; its data only if the user gives none.

    Another model gets of it the data and the rewards that go with them, if the user says nothing of data but how much.
    """
    from hone import embedded  # the names of the embedded models live there; nothing heavy is imported

    own = isinstance(name, str) and embedded.is_embedded_model(name)
    dataset = ("data", "dataset_name") if algorithm == "eval" else ("data", "train")
    has_data = any(path[: len(dataset)] == dataset and path[-1] == "dataset_name" for path in first.given)
    about_data = [path for path in first.given if path[:1] == ("data",)]
    if not own and any(path[-1] != "limit" for path in about_data):
        return {}, []
    if algorithm not in embedded.RECIPES:
        return {}, []
    tree = files.merged(files.chain(FilePath(embedded.recipe(algorithm))))
    if has_data:
        tree.pop("data", None)
    if own:
        return tree, []
    brought = get(
        tree, ("data", "dataset_name") if algorithm == "eval" else ("data", "train", "dataset_name")
    )
    said = f"{'.'.join(dataset)} was not given: the embedded word problems ({brought}) are used"
    wanted = ("data",) if rewarded else ("data", "rewards")
    return {section: tree[section] for section in wanted if section in tree}, [said]


def _preset(algorithm: str, first: Translation) -> dict[str, Any]:
    """The settings of the method that `grpo.preset` names. Another name is the schema's to refuse."""
    name = first.value_given(("grpo", "preset")) if algorithm == "grpo" else None
    if name not in get_args(Preset):
        return {}
    return files.read(FilePath(__file__).parents[1] / "presets" / f"{name}.yaml")


def _said_of_preset(preset: dict[str, Any], config: AnyConfig, translation: Translation) -> list[str]:
    """What holds of it beside what is given."""
    if not preset:
        return []
    resolved = config.model_dump(warnings=False)
    held = [
        f"{dotted(path)}={shown(get(resolved, path))}"
        for path, _ in leaves(preset)
        if path not in translation.given
    ]
    return [f"grpo.preset={get(resolved, ('grpo', 'preset'))}: {', '.join(held)}"]


def _trim_optimizer(base: dict[str, Any], first: Translation, part: str) -> None:
    """Another optimizer class than the default's does not get the default's betas and eps."""
    path = (part, "optimizer", "name")
    if path not in first.given or first.value_given(path) == get(base, path):
        return
    kwargs = get(base, (*path[:-1], "kwargs"))
    put(base, (*path[:-1], "kwargs"), {key: kwargs[key] for key in ("lr", "weight_decay") if key in kwargs})


def _restore(base: dict[str, Any], schema: dict[str, Any], path: Path, first: Translation) -> None:
    """`~key`: back to the schema's default, or gone where the schema does not name the key."""
    found = keys.find(first.root, path)
    if found.what == "unknown":
        if first.spelled(path):
            return
        raise ConfigError(keys.unknown(first.algorithm, path))
    default = get(schema, path)
    if found.known == len(path) and found.field is not None and default is not None:
        put(base, path, default)
    else:
        drop(base, path)


def _complete(config: AnyConfig, translation: Translation) -> list[str]:
    """Defaults that depend on what else was given. Returns what to tell about them."""
    said = []
    if isinstance(config, OnlineConfig | EvalConfig) and not config.rewards.functions:
        own = isinstance(config, EvalConfig) and bool(config.env.path)
        named = online.environments(config)
        if named == ["math"] or (isinstance(config, EvalConfig) and not named and not own):
            config.rewards.functions = [RewardFunctionConfig(name="math")]
            said.append("rewards.functions was not given: answers are checked as mathematics (`math`)")
    sampler = (
        config.generation if isinstance(config, EvalConfig) else getattr(config.policy, "generation", None)
    )
    if sampler is not None and sampler.backend == "vllm":
        said.append(
            f"{'' if isinstance(config, EvalConfig) else 'policy.'}generation.backend=vllm: there is no vLLM in this "
            "version; Hone's built-in generator samples, from the same distribution"
        )
    if isinstance(config, EvalConfig):
        return said
    key = ("checkpointing", "metric_name")
    if (
        key not in translation.given
        and config.checkpointing.metric_name is not None
        and not online.validates(config)
    ):
        config.checkpointing.metric_name = None
        said.append("there is no validation to rank checkpoints by: the newest are kept")
    return said


def _needs_data(algorithm: str, config: AnyConfig) -> list[str]:
    key = "data.dataset_name" if algorithm == "eval" else "data.train.dataset_name"
    sources: Sequence[DatasetSource] = (
        [config.data] if isinstance(config, EvalConfig) else config.data.train or []
    )
    model = ".".join(str(part) for part in _model_of(algorithm))
    if not sources or any(source.dataset_name is None for source in sources):
        section = config.generation if isinstance(config, EvalConfig) else config.policy
        return [
            f"{key} is not set: give a file (JSONL, JSON, Parquet), a folder or a Hugging Face dataset, such "
            f"as {key}=rows.jsonl. Only embedded models bring data; {model} is {section.model_name}"
        ]
    if not isinstance(config, EvalConfig):
        nameless = [s for s in config.data.validation or [] if s.dataset_name is None]
        if nameless:
            return ["data.validation.dataset_name is not set: name the data, or set data.validation to null"]
    return []
