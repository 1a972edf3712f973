"""Rewards for programs that pass tests. Programs run in a sandbox (hone.rollout.sandbox), one for each worker.

Python tests run in another process than the program (sandbox/judge.py). Tests that need the program's own process, or
that call nothing, make the completion fail. A program that hangs, crashes or exceeds a limit has the reward 0. The
outcome is saved with the rollout (`code_outcome`); metrics are the fractions of programs that passed, timed out, or
exceeded another limit.
"""

from __future__ import annotations

import ast
import atexit
import functools
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hone.rollout.rewards import worker_settings
from hone.rollout.rewards.functions.common import BadOption, rows_of
from hone.rollout.rewards.metrics import log_metric
from hone.rollout.rewards.text import answer_tag, answers_of, fenced
from hone.rollout.sandbox import LOST, IsolationError, Outcome, Sandbox

TEST_COLUMNS = ("test", "tests", "test_list", "test_cases", "input_output", "inputs")
"""Columns searched for the tests of a row where the option `column` is not given."""
_NEEDS_PROCESS = re.compile(
    r"\bsys\.(stdin|stdout|stderr|argv)\s*=[^=]|\bredirect_std(out|err)\b|\bbuiltins\.\w+\s*=[^=]|\bmonkeypatch\b"
    r"|\b(mock\.)?patch(\.(object|dict))?\(|\bcapsys\b"
)
"""Tests that change their process in a way that the program must see."""
_SETUP_COLUMNS = ("test_setup_code", "test_imports")
_KILLED = ("signal", "output", "memory", "processes", "MemoryError", "exit", "lost")
_RESERVE_S = 1.0


@dataclass
class Tests:
    """The tests of one row: Python that must not raise, or inputs with expected outputs."""

    asserts: list[str] = field(default_factory=list)
    support: str = ""
    """Code that runs after the program and before the asserts: imports, a `check` function."""
    setup: str = ""
    """Code that runs before the program, which may use it."""
    pairs: list[tuple[str, str]] = field(default_factory=list)


def code(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    column: str | None = None,
    partial_credit: bool = False,
    max_tests: int | None = None,
    prefills: Sequence[str] | None = None,
    log_extra: Callable[[str, list[Any]], None] | None = None,
    **columns: Any,
) -> list[Any]:
    """1 if the program in the completion passes all tests of its row, else 0; None for a row without tests.

    The program is the last fenced block (also one that the prompt opens), else the whole completion. It continues a
    plain prompt that defines the row's `entry_point` if the program does not. The tests are in `column`, or in the
    first of TEST_COLUMNS that the data has: HumanEval's form (`test` with `check(candidate)`, and `entry_point`), a
    list of assertions, a list of `{"input": …, "output": …}`, or `{"inputs": […], "outputs": […]}`, as values or JSON.

    partial_credit: the reward is the fraction of tests that pass. max_tests: run this many tests at most.
    """
    rows = rows_of(columns, len(completions))
    outcomes: list[str | None] = []
    rewards: list[Any] = []
    for prompt, text, row in zip(prompts, answers_of(completions, prefills), rows, strict=True):
        tests = _tests(row, column, max_tests, prompt)
        outcome: str | None = None
        reward: Any = None
        if tests is not None and (problem := _problem(tests)):
            reward = RuntimeError(problem)
        elif tests is not None:
            outcome, passed = _run(_program(prompt, text, row), tests)
            reward = sum(passed) / len(passed) if partial_credit else float(all(passed))
            reward = RuntimeError(outcome) if outcome == LOST else reward
        outcomes.append(outcome)
        rewards.append(reward)
    _report(outcomes, log_extra)
    return rewards


def _problem(tests: Tests) -> str:
    """Why the tests of a row cannot judge a program; empty if they can."""
    if (found := _NEEDS_PROCESS.search("\n".join([tests.support, *tests.asserts]))) is not None:
        return f"its tests change the process ({found[0].strip()}), which is not the program's"
    if tests.asserts and all(map(_only_defines, tests.asserts)):
        return "its tests call nothing: they only define functions or classes (is the column entry_point missing?)"
    return ""


def _only_defines(test: str) -> bool:
    """Whether a test holds only definitions and imports, so that every program passes it."""
    try:
        body = ast.parse(test).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Pass)
    return all(
        isinstance(part, definitions) or (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
        for part in body
    )


def _report(outcomes: list[str | None], log_extra: Callable[[str, list[Any]], None] | None) -> None:
    for cause in filter(None, outcomes):
        log_metric("code_passed", float(cause == "ok"))
        log_metric("code_timeout", float(cause == "timeout"))
        log_metric("code_killed", float(cause.startswith(_KILLED)))
    if log_extra is not None:
        log_extra("code_outcome", outcomes)


def _run(program: str, tests: Tests) -> tuple[str, list[bool]]:
    """The cause of the first failure (`ok` without one), and for each test whether it passed."""
    box = sandbox()
    if tests.asserts:
        outcome = box.run(program, tests=tests.asserts, support=tests.support, setup=tests.setup)
        return outcome.cause, outcome.passed
    first, passed = "ok", []
    deadline = time.monotonic() + box.limits.timeout_s
    for given, wanted in tests.pairs:
        left = deadline - time.monotonic()
        outcome = box.run(program, stdin=given, timeout_s=left) if left > 0 else Outcome("timeout")
        right = outcome.ok and _lines(outcome.stdout) == _lines(wanted)
        passed.append(right)
        if not right and first == "ok":
            first = "wrong output" if outcome.ok else outcome.cause
    return first, passed


def _lines(text: str) -> list[str]:
    """Output for comparison: without trailing white space."""
    return [line.rstrip() for line in text.strip().splitlines()]


def _program(prompt: Any, text: str, row: Mapping[str, Any]) -> str:
    block = fenced(text)
    tagged = answer_tag(text) if block is None else block
    program = text if tagged is None else tagged
    entry = row.get("entry_point")
    if not entry or _defines(program, str(entry)):
        return program
    begun = isinstance(prompt, str) and _defines(prompt, str(entry))
    return prompt + program if begun else program


def _defines(program: str, name: str) -> bool:
    """Whether a program defines a name at the top level."""
    name = re.escape(name)
    definition = rf"^(?:(?:async +)?def +|class +){name}\b|^{name} *[:=]"
    return re.search(definition, program, re.MULTILINE) is not None


def _tests(row: Mapping[str, Any], column: str | None, most: int | None, prompt: Any = "") -> Tests | None:
    name = column or next((name for name in TEST_COLUMNS if row.get(name) is not None), None)
    value = _parsed(row[name]) if name is not None else None
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    support = "\n".join(
        "\n".join(part) if isinstance(part, list) else str(part or "")
        for part in map(row.get, _SETUP_COLUMNS)
    )
    if isinstance(value, str):
        entry = row.get("entry_point")
        if entry and "def check" in value:
            return Tests([f"check({entry})"], f"{support}\n{_given(prompt, str(entry))}\n{value}", support)
        return Tests([value], support, support)
    if isinstance(value, Mapping) or name == "inputs":
        if not isinstance(value, Mapping):
            value = {"inputs": value, "outputs": _parsed(row.get("outputs"))}
        value = [{"input": i, "output": o} for i, o in zip(value["inputs"], value["outputs"], strict=True)]
    value = [each for each in value if not isinstance(each, str) or each.strip()][:most]
    if not value:
        return None
    if all(isinstance(each, str) for each in value):
        return Tests(list(value), support, support)
    return Tests(pairs=[(_text(each["input"]), _text(each["output"])) for each in value])


def _given(prompt: Any, entry: str) -> str:
    """The definitions of a Python prompt, without the requested function: tests use them, not the program's."""
    if not (isinstance(prompt, str) and _defines(prompt, entry)):
        return ""
    try:
        tree = ast.parse(prompt)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    tree.body = [part for part in tree.body if getattr(part, "name", None) != entry]
    return ast.unparse(tree)


def _parsed(value: Any) -> Any:
    """The value of a column; lists and mappings may be JSON."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _text(value: Any) -> str:
    """Input or output as text; a list holds lines."""
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


@functools.cache
def sandbox() -> Sandbox:
    """The sandbox of this process, with the limits of `rewards.sandbox`."""
    box = Sandbox(worker_settings.sandbox())
    atexit.register(box.close)
    return box


def _prepare(**options: Any) -> str:
    """Start the sandbox when the run starts; a message about its isolation."""
    try:
        return f"generated code runs in a sandbox: {sandbox().start()}"
    except IsolationError as error:
        raise BadOption(f"cannot be used: {error}") from error


def _seconds_each(**options: Any) -> float:
    """Seconds for one completion, in addition to `rewards.timeout_s` for the call."""
    return worker_settings.sandbox().timeout_s + _RESERVE_S


def _check(column: str | None = None, partial_credit: bool = False, max_tests: int | None = None) -> None:
    if max_tests is not None and max_tests < 1:
        raise BadOption(f"max_tests={max_tests} must be at least 1, or null for all")


code.any_of_columns = TEST_COLUMNS  # type: ignore[attr-defined]
code.check = _check  # type: ignore[attr-defined]
code.prepare = _prepare  # type: ignore[attr-defined]
code.seconds_each = _seconds_each  # type: ignore[attr-defined]
