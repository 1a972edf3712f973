"""Rewards for JSON that satisfies a schema."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hone.errors import install_command
from hone.rollout.rewards.functions.common import BadOption
from hone.rollout.rewards.text import answer_tag, answers_of, fenced

_MAX_TEXT = 1_000_000  # characters


def json_schema(
    completions: Sequence[Any],
    schema: dict[str, Any] | str | None = None,
    column: str | None = None,
    valid_json: float = 0.0,
    prefills: Sequence[str] | None = None,
    **columns: Any,
) -> list[float | None]:
    """1 if the completion is JSON that satisfies a JSON Schema, `valid_json` if it is merely JSON, else 0.

    The JSON is the last fenced block, else the content of `<answer>…</answer>`, else the whole completion, each after
    `</think>` if there is one. schema: the schema, or the path of its file; or column: the column with a schema for
    each row (as a mapping or as text; None: does not apply). External references are never fetched.
    """
    if column is None and schema is None:
        _check(schema, column)
    schemas = [_text_of_schema(schema)] * len(completions) if column is None else columns[column]
    return [
        None if each is None else _judged(text, _validator(_text_of_schema(each)), valid_json)
        for text, each in zip(answers_of(completions, prefills), schemas, strict=True)
    ]


def _judged(text: str, validator: Any, valid_json: float) -> float:
    block = fenced(text)
    tagged = answer_tag(text) if block is None else block
    found = (text if tagged is None else tagged).strip()
    try:
        value = json.loads(found, parse_constant=_refuse) if len(found) <= _MAX_TEXT else _refuse("length")
        return 1.0 if validator.is_valid(value) else valid_json
    except (ValueError, RecursionError):  # not JSON, a number of 10,000 digits, endless brackets
        return 0.0


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _text_of_schema(schema: Any) -> str:
    """The schema as text, the key of the cache."""
    if isinstance(schema, str) and schema.endswith(".json"):
        try:
            return Path(schema).read_text(encoding="utf-8")
        except OSError as error:
            raise BadOption(f"schema={schema} cannot be read: {error.strerror}") from error
    return schema if isinstance(schema, str) else json.dumps(schema, sort_keys=True)


@functools.lru_cache(1024)
def _validator(schema: str) -> Any:
    """The compiled schema. Raises BadOption for what is not a JSON Schema."""
    try:
        import jsonschema
        from referencing import Registry
    except ImportError as error:
        raise BadOption(f"needs the package jsonschema: {install_command('jsonschema>=4.18')}") from error
    try:
        parsed = json.loads(schema)
        draft = jsonschema.validators.validator_for(parsed, default=jsonschema.Draft202012Validator)
        draft.check_schema(parsed)
    except (ValueError, RecursionError, jsonschema.SchemaError) as error:
        reason = getattr(error, "message", None) or str(error)
        raise BadOption(f"schema {schema:.100} is not a JSON Schema: {reason}") from error
    return draft(parsed, registry=Registry())


def _check(schema: Any = None, column: str | None = None, valid_json: float = 0.0) -> None:
    if isinstance(valid_json, str | bool) or not isinstance(valid_json, int | float):
        raise BadOption(f"valid_json={valid_json} is not a number")
    if (schema is None) == (column is None):
        raise BadOption("needs kwargs.schema (a schema or its file) or kwargs.column (the column with one)")
    if schema is not None:
        _validator(_text_of_schema(schema))


json_schema.check = _check  # type: ignore[attr-defined]
json_schema.judges = False  # type: ignore[attr-defined]
json_schema.any_of_columns = ()  # type: ignore[attr-defined]  # only kwargs.column
