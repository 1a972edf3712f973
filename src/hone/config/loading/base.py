"""The layers below the user's settings: the schema's defaults, the recipe of an embedded model, a preset."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Any

from hone.config import keys
from hone.config.loading import files
from hone.config.loading.translation import KeyTranslation
from hone.config.nested import Path, drop, get, merge, put
from hone.config.schema import ROOTS, section_of
from hone.errors import ConfigError


def model_key(algorithm: str) -> Path:
    """The key of the model's name."""
    return ("generation" if algorithm == "eval" else "policy", "model_name")


def schema_defaults(algorithm: str) -> dict[str, Any]:
    """The schema's defaults as a tree."""
    tree = keys.defaults(ROOTS[algorithm])
    if "checkpointing" in tree:
        tree["checkpointing"]["checkpoint_dir"] = f"results/{algorithm}"
    return tree


def preset(translation: KeyTranslation) -> dict[str, Any]:
    """The settings of the method that the algorithm's `preset` names. The schema refuses an unknown name."""
    key = (section_of(translation.algorithm), "preset")
    name = translation.value_given(key) if keys.find(translation.root, key).what == "key" else None
    file = FilePath(__file__).parents[1] / "presets" / f"{name}.yaml"
    return files.read(file) if isinstance(name, str) and name.isidentifier() and file.exists() else {}


def base_tree(
    translation: KeyTranslation, preset_tree: dict[str, Any], removed: list[Path], *, rewarded: bool
) -> tuple[dict[str, Any], list[str]]:
    """The lower layers as one tree, and notices. `removed`: keys that the command line removes (`~key`)."""
    schema = schema_defaults(translation.algorithm)
    recipe, notices = _recipe(translation, rewarded=rewarded)
    base = merge(merge(schema, recipe), preset_tree)
    for part in ("policy", "value"):
        _trim_optimizer(base, translation, part)
    for path in removed:
        _restore(base, schema, path, translation)
    return base, notices


def _recipe(translation: KeyTranslation, *, rewarded: bool) -> tuple[dict[str, Any], list[str]]:
    """The recipe of an embedded model: all of it if the run trains one; its data only if the user gives none.

    Another model gets the recipe's data and rewards, if the user's only setting of `data` is a limit of rows, or none.
    """
    from hone import embedded  # only names of embedded models: nothing heavy is imported

    name = translation.value_given(model_key(translation.algorithm))
    own = isinstance(name, str) and name in embedded.MODELS
    dataset = ("data",) if translation.algorithm == "eval" else ("data", "train")
    has_data = any(
        path[: len(dataset)] == dataset and path[-1] == "dataset_name" for path in translation.given
    )
    about_data = [path for path in translation.given if path[:1] == ("data",)]
    has_suite = not {("eval", "suite"), ("eval", "lm_eval")}.isdisjoint(translation.given)
    if not own and (has_suite or any(path[-1] != "limit" for path in about_data)):
        return {}, []
    if translation.algorithm not in embedded.RECIPES:
        return {}, []
    tree = files.merged(files.chain(FilePath(embedded.RECIPES[translation.algorithm])))
    if has_data:
        tree.pop("data", None)
    if own:
        return tree, []
    key = ".".join(dataset) if len(dataset) > 1 else "data.dataset_name"
    brought = get(tree, (*dataset, "dataset_name"))
    wanted = ("data",) if rewarded else ("data", "rewards")
    notice = f"{key} was not given: the embedded word problems ({brought}) are used"
    return {section: tree[section] for section in wanted if section in tree}, [notice]


def _trim_optimizer(base: dict[str, Any], translation: KeyTranslation, part: str) -> None:
    """Drop the default's betas and eps where the user gives another optimizer class."""
    path = (part, "optimizer", "name")
    if path not in translation.given or translation.value_given(path) == get(base, path):
        return
    kwargs = get(base, (*path[:-1], "kwargs"))
    put(base, (*path[:-1], "kwargs"), {key: kwargs[key] for key in ("lr", "weight_decay") if key in kwargs})


def _restore(base: dict[str, Any], schema: dict[str, Any], path: Path, translation: KeyTranslation) -> None:
    """`~key`: reset to the schema's default, or removed where the schema does not name the key."""
    found = keys.find(translation.root, path)
    if found.what == "unknown":
        if translation.is_foreign(path):
            return
        raise ConfigError(keys.unknown(translation.algorithm, path))
    default = get(schema, path)
    if found.known == len(path) and found.field is not None and default is not None:
        put(base, path, default)
    else:
        drop(base, path)
