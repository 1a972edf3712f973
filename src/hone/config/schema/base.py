"""The base of every section: no unknown keys, strict types, docstrings as descriptions, derived defaults."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from typing_extensions import Self

from hone.config.interpolation import omega_conf
from hone.config.nested import escape
from hone.config.schedule import points

T = TypeVar("T")
Keys = tuple[str, ...]
Precision = Literal["float32", "bfloat16", "float16"]


class ConfigModel(BaseModel):
    """A section of the configuration. Unknown keys and wrong types are errors, never conversions."""

    # Validators are built on first use: a command uses few of the sections.
    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=(), defer_build=True)


def section(model: type[ConfigModel]) -> Any:
    """A nested section with all of its defaults."""
    return Field(default_factory=model)


def derived(expression: str) -> Any:
    """A key whose default is derived from another key; `expression` is an interpolation such as `${.top_p}`.

    null in a file means: derive it. On a validated root the attribute is None only if the other key is. Where the
    planner chooses the other key when the run starts, `fill_derived` is called again after that.
    """
    return Field(default=None, json_schema_extra={"derived": expression})


def _checked_schedule(value: Any) -> Any:
    points(value)
    return value


Schedule = Annotated[float | dict[int, float], BeforeValidator(_checked_schedule)]
"""A number, or one that changes with the steps that are done: `{0: 1.0, 100: 0.2}`."""


def _null_means_derive(value: Any, inner: ValidatorFunctionWrapHandler) -> Any:
    return None if value is None else inner(value)


Derived = Annotated[T, WrapValidator(_null_means_derive)]
Count = Annotated[int, Field(ge=1)]


def _minus_one_is_none(value: Any) -> Any:
    return None if value == -1 and not isinstance(value, bool) else value


CountOrAll = Annotated[Count | None, BeforeValidator(_minus_one_is_none)]
"""A count; null or -1 means no limit."""


def _zero_is_none(value: Any) -> Any:
    return None if value in (-1, 0) and not isinstance(value, bool) else value


TopK = Annotated[Count | None, BeforeValidator(_zero_is_none)]
"""As CountOrAll; 0 means no limit too."""


def derived_expression(model: type[BaseModel], name: str) -> str | None:
    """The interpolation behind a derived field, else None."""
    extra = model.model_fields[name].json_schema_extra
    return str(extra["derived"]) if isinstance(extra, dict) and "derived" in extra else None


def _underived(
    model: BaseModel, path: tuple[str, ...] = ()
) -> Iterator[tuple[BaseModel, tuple[str, ...], str]]:
    for name in type(model).model_fields:
        value, expression = getattr(model, name), derived_expression(type(model), name)
        if expression is not None and value is None:
            yield model, (*path, name), expression
        elif isinstance(value, BaseModel):
            yield from _underived(value, (*path, name))


def fill_derived(root: BaseModel) -> None:
    """Set every derived field that is None to the value of its expression."""
    missing = list(_underived(root))
    if not missing:
        return
    tree = escape(root.model_dump(warnings=False))
    for _, path, expression in missing:
        node = tree
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = expression
    resolved = omega_conf().create(tree)
    for owner, path, _ in missing:
        setattr(owner, path[-1], omega_conf().select(resolved, ".".join(path)))


class RunConfig(ConfigModel):
    """All settings of one command. Derived ones are filled in after validation."""

    @model_validator(mode="after")
    def _fill(self) -> Self:
        fill_derived(self)
        return self
