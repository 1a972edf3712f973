"""Validation errors of pydantic as sentences: the key as typed, its value, what was expected."""

from __future__ import annotations

import difflib
import re
from typing import Any

from pydantic import ValidationError

from hone.config import keys
from hone.config.loading.translation import KeyTranslation
from hone.config.nested import MISSING, Path, get, shown
from hone.config.schema import lora, run
from hone.errors import ConfigError

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping of keys",
    "model_attributes_type": "a mapping of keys",
}
_LIMITS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
_FORMS = {
    run.DURATION: "the form DAYS:HOURS:MINUTES:SECONDS, such as 00:03:45:00",
    lora.INITIAL: "one of kaiming, xavier, gaussian, orthogonal, olora, pissa, pissa_niter_N",
}
"""Descriptions of the schema's regular expressions."""


def raise_all(problems: list[str]) -> None:
    """Raise one ConfigError for all problems, if there are any."""
    unique = list(dict.fromkeys(problems))
    if len(unique) == 1:
        raise ConfigError(unique[0])
    if unique:
        raise ConfigError(
            f"{len(unique)} problems in the configuration:\n" + "\n".join(f"  - {p}" for p in unique)
        )


def sentences(error: ValidationError, translation: KeyTranslation, tree: Any) -> list[str]:
    """One sentence for each error, except for derived keys that are wrong only because another key is."""
    items: list[dict[str, Any]] = [dict(item) for item in error.errors(include_url=False)]
    own = [
        item
        for item in items
        if keys.derived_text(translation.root, item["loc"]) is None or tuple(item["loc"]) in translation.given
    ]
    return [_sentence(item, translation, tree) for item in own or items]


def _located(loc: Path, tree: Any) -> Path:
    """The path in the tree of pydantic's `loc`, without its additions: branches of a union, `[key]`, and indices into
    lists that a validator created."""
    path: Path = ()
    for part in loc:
        if get(tree, (*path, part)) is not MISSING:
            path = (*path, part)
    return path


def _sentence(item: dict[str, Any], translation: KeyTranslation, tree: Any) -> str:
    error_type, context = item["type"], item.get("ctx", {})
    path = _located(item["loc"], tree)
    if error_type == "extra_forbidden":
        return keys.unknown(translation.algorithm, path)
    if error_type == "missing":
        return f"{translation.as_written((*path, item['loc'][-1]))}: is required"
    name, value = translation.as_written(path), shown(item["input"])
    if error_type == "literal_error":
        names = re.findall(r"'([^']*)'", context["expected"])
        near = difflib.get_close_matches(str(item["input"]), names, 1)
        is_key = item["loc"][-1] == "[key]" and str(path[-1]) == value  # its value is another matter
        return (
            f"{name}{'' if is_key else f'={value}'}: expected {context['expected']}"
            f"{f'; did you mean {near[0]}?' if near else ''}"
        )
    if error_type in _LIMITS:
        limit, words = _LIMITS[error_type]
        return f"{name}={value}: expected {words} {context[limit]}"
    if error_type == "string_pattern_mismatch":
        return f"{name}={value}: expected {_FORMS.get(context['pattern'], context['pattern'])}"
    if error_type == "value_error":
        typed = f"{name}={value}" if isinstance(item["input"], str) else name
        return f"{typed}: {context['error']}" if name else str(context["error"])
    expected = _EXPECTED.get(error_type, item["msg"].lower())
    quote = f", got the text {value!r}" if isinstance(item["input"], str) else ""
    hint = (
        f' (write "{value}" in quotes)'
        if error_type == "string_type" and isinstance(item["input"], int | float)
        else ""
    )
    return f"{name}={value}: expected {expected}{quote}{hint}"
