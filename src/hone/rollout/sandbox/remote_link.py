"""The link between a program and the judge of its tests: each asks the other to do something with an object it holds.

A question is `{"q": [operation, arguments, keywords]}`, an answer `{"r": value}` or `{"e": exception}`, with `"m"` the
arguments again where containers among them were changed. While one side waits for an answer it answers the other's
questions, so a program may call a function that a test has passed to it. Frames are bounded (see framing.py).
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
    """The other side is gone, or said what cannot be understood. No `except Exception` of a test's may hide it."""


class Link:
    """One end. `operations`: what the other side may ask for; `may` refuses single questions by raising."""

    def __init__(
        self,
        channel: socket.socket,
        operations: Mapping[str, Callable[..., Any]],
        may: Callable[[Link, str, list[Any]], None] = lambda link, operation, arguments: None,
    ) -> None:
        self.lost = ""
        """Why nothing can be asked any more."""
        self._channel, self._may = channel, may
        self._values = ValueCodec(self._own, self._mine, self._theirs)
        self._operations = {**operations, "plain": self._values.plain}
        self._held: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._known: dict[int, Any] = {}

    def ask(self, operation: str, *arguments: Any, **named: Any) -> Any:
        """Have the other side do something; what came of it. Raises what it raised there, as a built-in exception or
        one of a class that was told of; or Lost."""
        seen = ContainerTable()
        question = [
            operation,
            [self._values.encode(each, seen) for each in arguments],
            {name: self._values.encode(each, seen) for name, each in named.items()},
        ]
        self._send({"q": question})
        while "q" in (answer := self._receive()):
            self._answer(answer["q"])
        try:
            if "m" in answer:
                self._values.decode(answer["m"], seen)
            if "e" not in answer:
                return self._values.decode(answer["r"], seen)
            error = self._exception(answer["e"], seen)
        except (ValueError, TypeError, KeyError, IndexError, OverflowError, ArithmeticError) as bad:
            raise ValueError(f"the answer is no value: {str(bad)[:_MAX_TEXT]}") from None
        if isinstance(error, StopIteration | StopAsyncIteration) and operation != "next":
            # It would end a loop of the test: `all(map(f, xs))` is True where f raises StopIteration.
            raise RuntimeError(f"{operation} raised {type(error).__name__}") from error
        raise error

    def serve(self) -> None:
        """Answer questions until the other side goes."""
        while not self.lost:
            try:
                question = self._receive()["q"]
            except Lost:
                return
            self._answer(question)

    def _answer(self, question: list[Any]) -> None:
        seen = ContainerTable()
        try:
            operation, given, named = question
            arguments = [self._values.decode(each, seen) for each in given]
            keywords = {name: self._values.decode(each, seen) for name, each in named.items()}
            seen.sent.update(range(len(seen.objects)))
            self._may(self, operation, arguments)
            answer = self._outcome(operation, arguments, keywords, seen)
            if seen.objects:
                answer = self._changed(arguments, keywords, (given, named), seen) | answer
            self._send(answer if "made" not in answer else self._encoded(answer, seen))
        except Lost:
            raise
        except BaseException as error:
            # Whatever it is, the other side waits for it: a program's SystemExit, MemoryError or RecursionError too.
            self._send({"e": self._told(error)})

    def _outcome(
        self, operation: str, arguments: list[Any], keywords: dict[str, Any], seen: ContainerTable
    ) -> dict[str, Any]:
        try:
            return {"made": self._operations[operation](*arguments, **keywords)}
        except Lost:
            raise
        except BaseException as error:
            return {"e": self._told(error)}

    def _encoded(self, answer: dict[str, Any], seen: ContainerTable) -> dict[str, Any]:
        made = answer.pop("made")
        return answer | {"r": self._values.encode(made, seen)}

    def _changed(
        self, arguments: list[Any], keywords: dict[str, Any], before: tuple[Any, Any], seen: ContainerTable
    ) -> dict[str, Any]:
        """The arguments anew, where something in them has changed: into what is not equal to it."""
        seen.sent.clear()
        given = [self._values.encode(each, seen) for each in arguments]
        named = {name: self._values.encode(each, seen) for name, each in keywords.items()}
        if (given, named) == before:
            seen.sent.update(range(len(seen.objects)))
            return {}
        return {"m": ["t", [*given, *named.values()]]}

    def _send(self, message: dict[str, Any]) -> None:
        body = json.dumps(message).encode()
        if len(body) > _MOST_BYTES:
            raise OverflowError(f"{len(body):,} bytes are more than the {_MOST_BYTES:,} that are read")
        try:
            send(self._channel, body)
        except OSError as error:
            raise self._gone(f"it is gone: {error}") from None

    def _receive(self) -> dict[str, Any]:
        if self.lost:
            raise Lost(self.lost)
        try:
            body = receive(self._channel, _MOST_BYTES)
            if body is None:
                raise self._gone("it is gone")
            return parse_object(body)
        except (FrameError, OSError) as error:
            raise self._gone(str(error)) from None

    def _gone(self, why: str) -> Lost:
        self.lost = why
        return Lost(why)

    def _own(self, value: Any) -> list[Any]:
        """One of the other side's goes back as its own; any other of ours is told of."""
        if isinstance(value, Remote):
            return ["o", Remote.number_of(value)]
        for number, known in self._known.items() if isinstance(value, type) else ():
            if known is value:  # a local stand-in for an exception's class
                return ["o", number]
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._held)
            self._held.append(value)
        return described(value, self._numbers[id(value)])

    def holds(self, value: Any) -> bool:
        """Whether this is an object of ours that the other side has been told of."""
        return id(value) in self._numbers

    def _mine(self, number: int) -> Any:
        return self._held[number]

    def _theirs(self, parts: list[Any]) -> Any:
        number, what, name, base = parts
        if type(number) is not int or not isinstance(name, str):
            raise ValueError("no object")
        if number not in self._known:
            self._known[number] = self._stand_in(number, what, name, base)
        return self._known[number]

    def _stand_in(self, number: int, what: str, name: str, base: str | None) -> Any:
        if what == "exception":
            if base is None or not issubclass(TYPES[base], BaseException):
                raise ValueError("no class of an exception")
            return type(name, (TYPES[base],), {})
        kind = RemoteCallable if what == "callable" else Remote
        remote = kind(self, number, name, base)
        return later(remote) if what == "awaitable" else remote

    def _told(self, error: BaseException) -> list[Any]:
        """An exception: its built-in class, its own where it has one, its arguments where they are plain, its text."""
        kind, seen = type(error), ContainerTable()
        base = builtin_exception(kind)
        try:
            text = str(error)[:_MAX_TEXT]
            arguments = [each if type(each) in (str, int, type(None)) else str(each) for each in error.args]
            plain = [self._values.encode(each, seen) for each in arguments]
        except BaseException as raised:  # one that the program made, and which cannot be printed
            text, plain = f"(cannot be printed: {type(raised).__name__})", []
        if len(json.dumps(plain)) > _MAX_TEXT * 4:
            plain = [text]
        return [base.__name__, None if base is kind else self._own(kind), plain, text]

    def _exception(self, parts: list[Any], seen: ContainerTable) -> BaseException:
        base, own, arguments, text = parts
        kind = TYPES[base] if own is None else self._values.decode(own, seen)
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise ValueError("no exception")
        try:
            return kind(*(self._values.decode(each, seen) for each in arguments))
        except TypeError:  # UnicodeDecodeError wants five
            return ValueError(str(text)) if issubclass(kind, ValueError) else Exception(str(text))
