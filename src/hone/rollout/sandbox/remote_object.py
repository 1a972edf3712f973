"""A proxy for an object of the other side of a link: operations on it are requested there.

The object is never asked whether it equals a plain value. If its class is derived from a built-in container, its
content is fetched and compared here; otherwise the two are not equal, and arithmetic between them is not supported.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Protocol

_SHOWN = ("__name__", "__qualname__", "__doc__", "__annotations__", "__dict__")
_BINARY = (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift",
)  # fmt: skip
_COMPARED = ("lt", "le", "gt", "ge")
_UNARY = (
    "len", "iter", "next", "str", "repr", "int", "float", "complex", "index", "neg", "pos", "invert", "abs",
)  # fmt: skip


class Link(Protocol):
    """The connection to the other process (see remote_link.Link)."""

    def ask(self, operation: str, *arguments: Any, **named: Any) -> Any:
        """Have the other side apply an operation, and return its result."""


class Remote:
    """An object of the other side."""

    __slots__ = ("__weakref__", "_base", "_link", "_name", "_number")

    def __init__(self, link: Link, number: int, name: str, base: str | None) -> None:
        for slot, value in (("_link", link), ("_number", number), ("_name", name), ("_base", base)):
            object.__setattr__(self, slot, value)

    @staticmethod
    def number_of(remote: Remote) -> int:
        """The number by which the other side finds the object."""
        return remote._number

    def _ask(self, operation: str, *arguments: Any, **named: Any) -> Any:
        return self._link.ask(operation, self, *arguments, **named)

    def _content(self, other: Any) -> Any:
        """The operand for an operation with `other`: this proxy for another proxy, else the object's content."""
        if isinstance(other, Remote) or self._base is None:
            return self
        return self._ask("plain")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in _SHOWN:
            raise AttributeError(name)
        return self._ask("getattr", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("setattr", name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._ask("getitem", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._ask("setitem", key, value)

    def __delitem__(self, key: Any) -> None:
        self._ask("delitem", key)

    def __bool__(self) -> bool:
        return self._ask("bool") is True

    def __enter__(self) -> Any:
        return self._ask("enter")

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        return self._ask("exit", None if error is None else type(error), error, None) is True

    def __copy__(self) -> Any:
        return self._ask("copy")

    def __deepcopy__(self, memo: Any) -> Any:
        return self._ask("deepcopy")

    def __instancecheck__(self, other: Any) -> bool:
        return isinstance(other, Remote) and self._link.ask("isinstance", other, self) is True

    def __hash__(self) -> int:
        return hash((Remote, self._number))

    def __eq__(self, other: Any) -> Any:
        if self is other:
            return True
        if isinstance(other, Remote):
            return self._ask("eq", other) is True
        mine = self._content(other)
        return False if mine is self else mine == other

    def __ne__(self, other: Any) -> Any:
        return not self == other


class RemoteCallable(Remote):
    """A function or a class of the other side, or an object that can be called."""

    __slots__ = ()

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._ask("call", *arguments, **named)


async def later(remote: Remote) -> Any:
    """The result of a coroutine of the other side."""
    return remote._ask("await")


def _unary(name: str) -> Callable[[Remote], Any]:
    return lambda self: self._ask(name)


def _binary(name: str, reflected: bool = False) -> Callable[[Remote, Any], Any]:
    plain = getattr(operator, name, None) or getattr(operator, f"{name}_")

    def operate(self: Remote, other: Any) -> Any:
        if isinstance(other, Remote) and not reflected:
            return self._ask(name, other)
        mine = self._content(other)
        if mine is self:
            return NotImplemented
        return plain(other, mine) if reflected else plain(mine, other)

    return operate


for _each in _UNARY:
    setattr(Remote, f"__{_each}__", _unary(_each))
for _each in (*_BINARY, *_COMPARED):
    setattr(Remote, f"__{_each}__", _binary(_each))
for _each in _BINARY:
    setattr(Remote, f"__r{_each}__", _binary(_each, reflected=True))
