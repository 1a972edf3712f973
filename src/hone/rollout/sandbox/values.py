"""Encodes values as JSON between a program and the judge of its tests; decoding creates plain values only.

Objects of exactly a built-in type, or of a value type of the standard library, are copied; lists and other containers
keep their identity within one call. All other objects stay in their process and are sent as a number, for which the
other side has a `Remote` (see remote_link.py). So the judge's process neither runs a program's code nor compares by the
program's rules.
"""

from __future__ import annotations

import base64
import builtins
import datetime
import types
from array import array
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Any

_SAFE_INT = 1 << 53
_MAX_NAME = 100
_PACKED_FROM = 100
_AS_THEY_ARE = {str, float, bool, type(None)}
_DECODED = (str, float, bool, type(None), int)
TYPES = {n: v for n, v in vars(builtins).items() if isinstance(v, type) and v.__module__ == "builtins"}
"""Built-in types and exceptions: they are the same on both sides, and are sent by name."""
_CONTAINERS = (list, tuple, dict, set, frozenset, deque)
_TEMPORAL: dict[type, tuple[str, ...]] = {
    datetime.date: ("year", "month", "day"),
    datetime.timedelta: ("days", "seconds", "microseconds"),
    datetime.time: ("hour", "minute", "second", "microsecond"),
    datetime.datetime: ("year", "month", "day", "hour", "minute", "second", "microsecond"),
}
_TEMPORAL_NAMES = {kind.__name__: kind for kind in _TEMPORAL}
_MAPPINGS = {"d": dict, "O": OrderedDict, "C": Counter}
_NUMERIC = "biufc?"


class ContainerTable:
    """The containers of one call: both sides number them equally, in the order of their encoding."""

    def __init__(self) -> None:
        self.objects: list[Any] = []
        self.sent: set[int] = set()
        self._numbers: dict[int, int] = {}

    def number(self, container: Any) -> int:
        """The number of a container that both sides know, or will know."""
        if id(container) not in self._numbers:
            self._numbers[id(container)] = len(self.objects)
            self.objects.append(container)
        return self._numbers[id(container)]


class ValueCodec:
    """Encodes and decodes for one end of a link. `own` describes an object that stays here, `mine` finds it by number,
    and `theirs` creates the proxy of one that stays there."""

    def __init__(
        self, own: Callable[[Any], list[Any]], mine: Callable[[int], Any], theirs: Callable[[list[Any]], Any]
    ) -> None:
        self._own, self._mine, self._theirs = own, mine, theirs

    def encode(self, value: Any, seen: ContainerTable) -> Any:
        """The value as JSON data."""
        kind = type(value)
        if kind in _AS_THEY_ARE:
            return value
        if kind is int:
            return value if -_SAFE_INT < value < _SAFE_INT else ["i", f"{value:x}"]
        if kind in _CONTAINERS or kind in (bytearray, OrderedDict, Counter):
            return self._container(kind, value, seen)
        scalar = _scalar(kind, value)
        if scalar is not None:
            return scalar
        reduced = _reduced(value)
        return self._own(value) if reduced is None else self.encode(reduced, seen)

    def _container(self, kind: type, value: Any, seen: ContainerTable) -> Any:
        if kind is tuple or kind is frozenset:
            return ["t" if kind is tuple else "z", self._each(value, seen)]
        number = seen.number(value)
        if number in seen.sent:
            return ["=", number]
        seen.sent.add(number)
        if kind is bytearray:
            return ["B", number, value.hex()]
        if kind in (dict, OrderedDict, Counter):
            pairs = [self.encode(part, seen) for pair in value.items() for part in pair]
            return [next(tag for tag, known in _MAPPINGS.items() if known is kind), number, pairs]
        items = self._each(value, seen)
        if kind is deque:
            return ["q", number, items, value.maxlen]
        return ["l" if kind is list else "s", number, items]

    def _each(self, values: Any, seen: ContainerTable) -> list[Any] | str:
        kinds = set(map(type, values))
        if kinds in ({int}, {float}) and (packed := _packed(values, "q" if int in kinds else "d")):
            return packed
        if kinds <= _AS_THEY_ARE:
            return list(values)
        return [self.encode(each, seen) for each in values]

    def plain(self, value: Any) -> Any:
        """The content of an object whose class is derived from a built-in container; else the object."""
        base = base_of(value)
        return value if base is None else base(_CONTENT[base](value))

    def decode(self, data: Any, seen: ContainerTable) -> Any:
        """The value. Raises ValueError, TypeError or KeyError for data that is not an encoded value."""
        if not isinstance(data, list):
            if isinstance(data, _DECODED):
                return data
            raise ValueError("not a value")
        tag, *parts = data
        if tag in _PLAIN:
            return _PLAIN[tag](*parts)
        if tag in "tz":
            items = self._decoded(parts[0], seen)
            return tuple(items) if tag == "t" else frozenset(items)
        if tag == "=":
            return seen.objects[_natural(parts[0])]
        if tag == "h":
            return self._theirs(parts)
        if tag == "o":
            return self._mine(_natural(parts[0]))
        return self._filled(tag, parts, seen)

    def _decoded(self, content: list[Any] | str, seen: ContainerTable) -> list[Any]:
        if isinstance(content, str):
            return _unpacked(content)
        if set(map(type, content)) <= _AS_THEY_ARE:
            return content
        return [self.decode(each, seen) for each in content]

    def _filled(self, tag: str, parts: list[Any], seen: ContainerTable) -> Any:
        """A container with its content; a container that both sides know is filled in place."""
        number, content, *more = parts
        made = _EMPTY[tag](*more)
        if number < len(seen.objects):
            known = seen.objects[_natural(number)]
            if type(known) is not type(made):
                raise ValueError("a container changed its type")
            made = known
        elif seen.number(made) != number:
            raise ValueError("a container with a wrong number")
        if tag == "B":
            made[:] = bytes.fromhex(content)
            return made
        items = self._decoded(content, seen)
        made.clear()
        if tag in _MAPPINGS:
            for key, value in zip(items[::2], items[1::2], strict=True):
                made[key] = value
        else:
            (made.update if tag == "s" else made.extend)(items)
        return made


_EMPTY: dict[str, Callable[..., Any]] = {
    "l": list, "s": set, "B": bytearray, "q": lambda most=None: deque(maxlen=most), **_MAPPINGS,
}  # fmt: skip
_CONTENT: dict[type, Callable[[Any], Iterable[Any]]] = {
    list: list.__iter__, tuple: tuple.__iter__, set: set.__iter__, frozenset: frozenset.__iter__,
    deque: deque.__iter__, dict: dict.items,
}  # fmt: skip


def base_of(value: Any) -> type | None:
    """The built-in container that a class is derived from."""
    return next((base for base in _CONTAINERS if isinstance(value, base)), None)


def _packed(numbers: Any, code: str) -> str | None:
    """Many numbers as one string: ten times as fast as a list. None for few numbers, and for large integers."""
    if len(numbers) < _PACKED_FROM:
        return None
    try:
        return code + base64.b64encode(array(code, numbers).tobytes()).decode()
    except OverflowError:
        return None


def _unpacked(text: str) -> list[Any]:
    if text[:1] not in ("q", "d"):
        raise ValueError("not packed numbers")
    numbers = array(text[0])
    numbers.frombytes(base64.b64decode(text[1:]))
    return numbers.tolist()


def _scalar(kind: type, value: Any) -> list[Any] | None:
    """The encoding of a value that is no container; None if it cannot be copied."""
    if kind is bytes:
        return ["b", value.hex()]
    if kind is complex:
        return ["c", value.real.hex(), value.imag.hex()]
    if kind is range or kind is slice:
        bounds = (value.start, value.stop, value.step)
        if all(each is None or type(each) is int for each in bounds):
            tag = "r" if kind is range else "S"
            return [tag, *(None if each is None else f"{each:x}" for each in bounds)]
    if kind is Decimal:
        return ["D", str(value)]
    if kind is Fraction:
        return ["F", f"{value.numerator:x}", f"{value.denominator:x}"]
    if kind in _TEMPORAL and getattr(value, "tzinfo", None) is None:
        return ["T", kind.__name__, [getattr(value, name) for name in _TEMPORAL[kind]]]
    if isinstance(value, type) and TYPES.get(value.__name__) is value:
        return ["y", value.__name__]
    if value is Ellipsis or value is NotImplemented:
        return ["e", repr(value)]
    return _array(kind, value) if kind.__module__ == "numpy" else None


def _array(kind: type, value: Any) -> list[Any] | None:
    if kind.__name__ != "ndarray" or value.dtype.kind not in _NUMERIC:
        return None
    return ["n", value.dtype.str, list(value.shape), value.tobytes().hex()]


def _reduced(value: Any) -> Any:
    """The plain number or string of an object of a derived class, by the rules of the built-in class."""
    if isinstance(value, int):
        return int.__pos__(value)
    if isinstance(value, float):
        return float.__pos__(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes):
        return bytes.__getitem__(value, slice(None))
    if type(value).__module__ == "numpy" and type(value).__name__ != "ndarray" and hasattr(value, "item"):
        item = value.item()
        return item if type(item) in (bool, int, float, complex, str, bytes) else None
    return None


def _natural(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise ValueError("not the number of an object")
    return number


def _bound(text: str | None) -> int | None:
    return None if text is None else int(text, 16)


def _decode_array(dtype_name: str, shape: list[int], data: str) -> Any:
    import numpy

    dtype = numpy.dtype(dtype_name)
    if dtype.kind not in _NUMERIC:
        raise ValueError("not an array of numbers")
    return numpy.frombuffer(bytes.fromhex(data), dtype).reshape(shape).copy()


_PLAIN: dict[str, Callable[..., Any]] = {
    "i": lambda text: int(text, 16),
    "b": bytes.fromhex,
    "c": lambda real, imag: complex(float.fromhex(real), float.fromhex(imag)),
    "r": lambda *bounds: range(*(_bound(each) or 0 for each in bounds)),
    "S": lambda *bounds: slice(*map(_bound, bounds)),
    "D": Decimal,
    "F": lambda top, bottom: Fraction(int(top, 16), int(bottom, 16)),
    "T": lambda name, parts: _TEMPORAL_NAMES[name](*parts),
    "y": TYPES.__getitem__,
    "e": {"Ellipsis": Ellipsis, "NotImplemented": NotImplemented}.__getitem__,
    "n": _decode_array,
}


def described(value: Any, number: int) -> list[Any]:
    """The description of an object that stays here: its number, what can be done with it, its name, its base class."""
    name = str(getattr(value, "__name__", type(value).__name__))[:_MAX_NAME]
    base = base_of(value)
    if isinstance(value, type) and issubclass(value, BaseException):
        return ["h", number, "exception", name, builtin_exception(value).__name__]
    if isinstance(value, types.CoroutineType):
        return ["h", number, "awaitable", name, None]
    what = "callable" if callable(value) else "object"
    return ["h", number, what, name, None if base is None else base.__name__]


def builtin_exception(kind: type) -> type[BaseException]:
    """The nearest built-in base class of a class of exceptions."""
    return next(base for base in kind.__mro__ if TYPES.get(base.__name__) is base)
