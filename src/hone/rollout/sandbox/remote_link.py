"""The link between a program and the judge of its tests: each side requests operations on the other side's objects.

A request is `{"q": [operation, arguments, keywords]}`; a reply is `{"r": value}` or `{"e": exception}`, with the
arguments in `"m"` if containers among them have changed. While one side waits for a reply it serves the other side's
requests, so a program may call a function that a test has passed to it. Frames have a maximum size (see framing.py).
"""

from __future__ import annotations

import json
import operator
import socket
from collections.abc import Callable, Mapping
from typing import Any

from hone.rollout.sandbox.remote_object import Remote, RemoteCallable, later
from hone.rollout.sandbox.values import TYPES, ContainerTable, ValueCodec, builtin_exception, described
from hone.rollout.workers.framing import FrameError, parse_object, receive, send

_MOST_BYTES = 32 << 20
_MAX_TEXT = 1000

OPERATIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge", "getitem", "setitem", "delitem")},
    **{name: getattr(operator, name) for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")},
    **{name: getattr(operator, f"{name}_") for name in ("and", "or")},
    **{name: getattr(operator, name) for name in ("xor", "lshift", "rshift", "neg", "pos", "invert", "abs", "index")},
    **{function.__name__: function for function in (getattr, setattr, len, iter, next, repr, isinstance)},
    **{kind.__name__: kind for kind in (str, bool, int, float, complex)},
    "call": lambda function, *arguments, **named: function(*arguments, **named),
    "enter": lambda context: context.__enter__(),
    "exit": lambda context, *error: context.__exit__(*error),
}  # fmt: skip


class Lost(BaseException):
    """The other side has ended, or sent an invalid message. A test's `except Exception` does not catch it."""


class Link:
    """One end. `operations`: those that the other side may request; `check` raises for requests that are refused."""

    def __init__(
        self,
        channel: socket.socket,
        operations: Mapping[str, Callable[..., Any]],
        check: Callable[[Link, str, list[Any]], None] = lambda link, operation, arguments: None,
    ) -> None:
        self.lost = ""
        """Why the link has ended; empty while it works."""
        self._channel, self._check = channel, check
        self._values = ValueCodec(self._own, self._mine, self._theirs)
        self._operations = {**operations, "plain": self._values.plain}
        self._held: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._known: dict[int, Any] = {}

    def ask(self, operation: str, *arguments: Any, **named: Any) -> Any:
        """Request an operation from the other side and return its result. Raises what it raised there (an exception of
        a built-in class, or of a stand-in for the program's class), or Lost."""
        seen = ContainerTable()
        self._send({"q": [operation, *self._encode_arguments(arguments, named, seen)]})
        while "q" in (reply := self._receive()):
            self._reply(reply["q"])
        try:
            if "m" in reply:
                self._values.decode(reply["m"], seen)
            if "e" not in reply:
                return self._values.decode(reply["r"], seen)
            error = self._exception(reply["e"], seen)
        except (ValueError, TypeError, KeyError, IndexError, OverflowError, ArithmeticError) as bad:
            raise ValueError(f"the reply is not a value: {str(bad)[:_MAX_TEXT]}") from None
        if isinstance(error, StopIteration | StopAsyncIteration) and operation != "next":
            # It would end a loop of the test: `all(map(f, xs))` is True if f raises StopIteration.
            raise RuntimeError(f"{operation} raised {type(error).__name__}") from error
        raise error

    def serve(self) -> None:
        """Serve requests until the other side ends."""
        while not self.lost:
            try:
                request = self._receive()["q"]
            except Lost:
                return
            self._reply(request)

    def _reply(self, request: list[Any]) -> None:
        seen, reply, result = ContainerTable(), dict[str, Any](), None
        try:
            operation, given, named = request
            arguments = [self._values.decode(each, seen) for each in given]
            keywords = {name: self._values.decode(each, seen) for name, each in named.items()}
            seen.sent.update(range(len(seen.objects)))
            self._check(self, operation, arguments)
            try:
                result = self._operations[operation](*arguments, **keywords)
            except Lost:
                raise
            except BaseException as error:
                reply = {"e": self._encode_exception(error)}
            if seen.objects:
                reply |= self._changed(arguments, keywords, [given, named], seen)
            self._send(reply if "e" in reply else reply | {"r": self._values.encode(result, seen)})
        except Lost:
            raise
        except BaseException as error:
            # The other side waits for a reply to every request: also after SystemExit, MemoryError, RecursionError.
            self._send({"e": self._encode_exception(error)})

    def _encode_arguments(self, arguments: Any, keywords: dict[str, Any], seen: ContainerTable) -> list[Any]:
        given = [self._values.encode(each, seen) for each in arguments]
        return [given, {name: self._values.encode(each, seen) for name, each in keywords.items()}]

    def _changed(
        self, arguments: list[Any], keywords: dict[str, Any], before: list[Any], seen: ContainerTable
    ) -> dict[str, Any]:
        """The encoded arguments if an operation has changed one of them, else nothing."""
        seen.sent.clear()
        given, named = now = self._encode_arguments(arguments, keywords, seen)
        if now == before:
            seen.sent.update(range(len(seen.objects)))
            return {}
        return {"m": ["t", [*given, *named.values()]]}

    def _send(self, message: dict[str, Any]) -> None:
        body = json.dumps(message).encode()
        if len(body) > _MOST_BYTES:
            raise OverflowError(f"{len(body):,} bytes are more than the limit of {_MOST_BYTES:,}")
        try:
            send(self._channel, body)
        except OSError as error:
            raise self._end(f"it is gone: {error}") from None

    def _receive(self) -> dict[str, Any]:
        if self.lost:
            raise Lost(self.lost)
        try:
            body = receive(self._channel, _MOST_BYTES)
            if body is None:
                raise self._end("it is gone")
            return parse_object(body)
        except (FrameError, OSError) as error:
            raise self._end(str(error)) from None

    def _end(self, why: str) -> Lost:
        self.lost = why
        return Lost(why)

    def _own(self, value: Any) -> list[Any]:
        """A reference to an object: the other side's number of its own objects, else a description with our number."""
        if isinstance(value, Remote):
            return ["o", Remote.number_of(value)]
        for number, known in self._known.items() if isinstance(value, type) else ():
            if known is value:  # a stand-in for an exception's class
                return ["o", number]
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._held)
            self._held.append(value)
        return described(value, self._numbers[id(value)])

    def holds(self, value: Any) -> bool:
        """Whether the other side has a reference to this object of ours."""
        return id(value) in self._numbers

    def _mine(self, number: int) -> Any:
        return self._held[number]

    def _theirs(self, parts: list[Any]) -> Any:
        number, what, name, base = parts
        if type(number) is not int or not isinstance(name, str):
            raise ValueError("not an object")
        if number not in self._known:
            self._known[number] = self._stand_in(number, what, name, base)
        return self._known[number]

    def _stand_in(self, number: int, what: str, name: str, base: str | None) -> Any:
        if what == "exception":
            if base is None or not issubclass(TYPES[base], BaseException):
                raise ValueError("not a class of exceptions")
            return type(name, (TYPES[base],), {})
        remote = (RemoteCallable if what == "callable" else Remote)(self, number, name, base)
        return later(remote) if what == "awaitable" else remote

    def _encode_exception(self, error: BaseException) -> list[Any]:
        """An exception: its built-in class, its own class (None: the same), its plain arguments, its text."""
        own, seen = type(error), ContainerTable()
        base = builtin_exception(own)
        try:
            text = str(error)[:_MAX_TEXT]
            arguments = [each if type(each) in (str, int, type(None)) else str(each) for each in error.args]
            plain = [self._values.encode(each, seen) for each in arguments]
        except BaseException as raised:  # a class of the program that cannot be printed
            text, plain = f"(cannot be printed: {type(raised).__name__})", []
        if len(json.dumps(plain)) > _MAX_TEXT * 4:
            plain = [text]
        return [base.__name__, None if base is own else self._own(own), plain, text]

    def _exception(self, parts: list[Any], seen: ContainerTable) -> BaseException:
        base, own, arguments, text = parts
        cls = TYPES[base] if own is None else self._values.decode(own, seen)
        if not (isinstance(cls, type) and issubclass(cls, BaseException)):
            raise ValueError("not an exception")
        try:
            return cls(*(self._values.decode(each, seen) for each in arguments))
        except TypeError:  # UnicodeDecodeError needs five arguments
            return ValueError(str(text)) if issubclass(cls, ValueError) else Exception(str(text))
