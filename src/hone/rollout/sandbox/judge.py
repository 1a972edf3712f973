"""The process that runs a program's tests. The program runs in another process, and none of its code runs here: the
tests call its functions remotely; results arrive as plain values, and this process compares them by its own rules.

For each test a line of JSON is reported: `[number, passed, cause, message]`; number -2 is the support.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import math
import os
import signal
import socket
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from hone.rollout.sandbox.jail import Jail
from hone.rollout.sandbox.process import LINK, REPORT, enter_sandbox, text
from hone.rollout.sandbox.program import SHARED_MODULES, exception_text
from hone.rollout.sandbox.remote_link import OPERATIONS, Link, Lost
from hone.rollout.sandbox.remote_object import Remote

SUPPORT = -2
_ALIASES = {("np", "numpy"), ("pd", "pandas"), ("dt", "datetime")}
_ASKABLE = (
    "call", "getattr", "setattr", "getitem", "setitem", "len", "iter", "next", "bool", "str", "repr",
    "isinstance", "eq", "ne", "lt", "le", "gt", "ge", "enter", "exit",
)  # fmt: skip
"""Operations that a program may request on an object that a test has given it."""
_NOT_CALLABLE = (eval, exec, compile, open, __import__, getattr, setattr, delattr, globals, locals, vars)
"""Built-in functions that a program may not call in this process, even where a test passes them to it."""
_MODULES = {name: name for name in (*SHARED_MODULES, "numpy", "pandas", "unittest")} | dict(_ALIASES)


def run(jail: Jail, request: Mapping[str, Any], streams: list[int]) -> NoReturn:
    """Become the judge. streams: /dev/null three times; report, tests, and the link to the program."""
    enter_sandbox(jail, request["limits"], request["seconds"], streams, visible=False)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # a closed link is a failure of the program
    tests = json.loads(text())
    link = Link(socket.socket(fileno=LINK), {name: OPERATIONS[name] for name in _ASKABLE}, _check_permitted)
    _Judge(link, tests["support"], tests["tests"]).run_all()
    os._exit(0)


def _check_permitted(link: Link, operation: str, arguments: list[Any]) -> None:
    """Raise for an operation that would reveal more of a test than it has given: a program may call functions, and use
    the public attributes of objects whose class a test defines."""
    own = arguments[1:2] if operation == "isinstance" else arguments[:1]
    if not own or not link.holds(own[0]):
        raise TypeError(f"a program may not request {operation}")
    if operation == "call" and any(own[0] is function for function in _NOT_CALLABLE):
        raise TypeError(f"a program may not call {own[0].__name__}")
    if operation in ("getattr", "setattr"):
        name, owner = arguments[1], own[0] if isinstance(own[0], type) else type(own[0])
        if type(name) is not str or name.startswith("_") or owner.__module__ != "__main__":
            raise AttributeError(f"a program may not use the attribute {name!s:.100} of a test's object")


class _Judge:
    """The tests of one program."""

    def __init__(self, link: Link, support: str, tests: Sequence[str]) -> None:
        self._link, self._support, self._tests = link, support, tests
        self._names: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins}
        self._bound: dict[str, Any] = {}
        self._wanted: list[str] = []
        self._compares = False
        """Whether the tests use names of the program that are not names of libraries."""

    def run_all(self) -> None:
        """Run the support and each test, all in one namespace with the program's names."""
        try:
            self._wanted = self._used(self._link.ask("names"))
        except (Lost, ValueError, TypeError) as error:
            self._report(SUPPORT, "lost", exception_text(error))
            return
        if self._attempt(SUPPORT, self._support):
            for number, test in enumerate(self._tests):
                self._attempt(number, test)

    def _attempt(self, number: int, source: str) -> bool:
        try:
            self._bind()
            label = "<support>" if number == SUPPORT else f"<test {number}>"
            exec(compile(source, label, "exec", dont_inherit=True), self._names)
            cause, detail = "ok", ""
        except Lost as error:
            cause, detail = "lost", exception_text(error)
        except BaseException as error:
            # Any exception fails the test, SystemExit included; so a program can only fail its own tests.
            cause, detail = type(error).__name__[:100], exception_text(error)
            self._report(number, cause, detail, passed=False)
            return False
        if self._link.lost:  # also if the test caught the exception
            cause, detail = "lost", self._link.lost
        self._report(number, cause, detail)
        return cause == "ok"

    def _report(self, number: int, cause: str, detail: str, passed: bool | None = None) -> None:
        passed = cause == "ok" if passed is None else passed
        os.write(REPORT, json.dumps([number, passed, cause, detail]).encode() + b"\n")

    def _used(self, offered: Any) -> list[str]:
        """The program's names that the tests use. A built-in name keeps its meaning, even if the program defines it,
        unless the tests use no other name of the program: then they test that definition."""
        if not isinstance(offered, list) or not all(type(name) is str for name in offered):
            raise TypeError("the program has no names")
        codes = [code for source in (self._support, *self._tests) for code in _codes(source)]
        written = {name for code in codes for name in code.co_names}
        used = [name for name in offered if name in written and not name.startswith("__")]
        own = [name for name in used if not hasattr(builtins, name)]
        self._compares = bool({*own} - {"isclose", *_MODULES})
        return own or used

    def _bind(self) -> None:
        """Bind the program's names to their current values, except names that the tests have redefined."""
        for name in self._wanted:
            if name in self._names and self._names[name] is not self._bound.get(name):
                continue
            found = self._found(name)
            if found is not None:
                self._names[name] = self._bound[name] = found[0]

    def _found(self, name: str) -> tuple[Any] | None:
        """The value of a program's name, in a tuple. Modules are imported here, if they have their usual name."""
        how, value = self._link.ask("look", name)
        if how == "value" or isinstance(value, Remote):
            real = self._library(name) if self._compares else None
            return (value,) if real is None else (real,)
        if how == "from" and value in SHARED_MODULES:
            return (getattr(importlib.import_module(value), name),)
        usual = type(value) is str and (value.split(".")[-1] == name or (name, value) in _ALIASES)
        return (importlib.import_module(value),) if how == "module" and usual else None

    def _library(self, name: str) -> Any:
        """The module or function of this name in the standard library or NumPy, if the tests use it as such: a program
        with its own `math` or `isclose` would judge itself."""
        if name == "isclose":
            return math.isclose
        if name not in _MODULES:
            return None
        sources = (self._support, *self._tests)
        used = {attribute for source in sources for attribute in _attributes(source, name)}
        try:
            module = importlib.import_module(_MODULES[name])
        except ImportError:
            return None
        return module if used and all(hasattr(module, attribute) for attribute in used) else None


def _attributes(source: str, name: str) -> Iterator[str]:
    """The attributes of a name that a source uses; none if the source is not valid Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name:
            yield node.attr


def _codes(source: str) -> Iterator[types.CodeType]:
    """The code objects of a source and of every function in it; none if the source is not valid Python."""
    try:
        waiting = [compile(source, "<test>", "exec", dont_inherit=True)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    while waiting:
        code = waiting.pop()
        yield code
        waiting += [each for each in code.co_consts if isinstance(each, types.CodeType)]
