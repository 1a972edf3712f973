"""Code against tests: every form of tests, and what is no solution."""

from __future__ import annotations

import asyncio
import json

import pytest

from hone.rollout.rewards.resolve import resolve_all
from hone.rollout.rewards.reward_pool import RewardPool
from hone.rollout.sandbox import IsolationError, Sandbox, SandboxLimits
from tests.helpers.pool_helpers import score

try:
    with Sandbox() as _box:
        _box.start()
except IsolationError as _error:
    pytest.skip(str(_error), allow_module_level=True)

TICKS = "`" * 3
RIGHT, WRONG = "def add(a, b):\n    return a + b", "def add(a, b):\n    return a - b"
HUMANEVAL = {"test": "def check(candidate):\n    assert candidate(1, 2) == 3", "entry_point": "add"}


def graded(completions: list[str], row: dict, prompt: str = "p", **kwargs) -> list[float | None]:
    columns = {name: [value] * len(completions) for name, value in row.items()}
    entry = {"name": "code", "kwargs": kwargs}
    with RewardPool(resolve_all([entry]), num_workers=1, max_failure_fraction=0.0) as pool:
        scored = asyncio.run(pool.score([prompt] * len(completions), completions, columns))
    return [one.reward for one in scored]


def test_humaneval_whole_programs_and_bodies() -> None:
    fence = f"Sure.\n{TICKS}python\n{RIGHT}\n{TICKS}\nIt adds."
    completions = [RIGHT, fence, WRONG, "    return a + b\n", "    return a\n", "", "I cannot do that."]
    found = graded(completions, HUMANEVAL, prompt="def add(a, b):\n")
    assert found == [1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0]


def test_a_program_cannot_replace_its_judge() -> None:
    cheats = [
        "def add(a, b): pass\ndef check(candidate): pass",
        "import sys\ndef add(a, b): sys.exit(0)",
        "import os\ndef add(a, b): os._exit(0)",
        "import os\nos._exit(0)",
        'import atexit, os\nadd = lambda a, b: 4\natexit.register(lambda: os.write(3, b\'["", 0, "ok", ""]\\n\'))',
    ]
    assert graded(cheats, HUMANEVAL) == [0.0] * len(cheats)


def test_what_the_prompt_defines_is_the_prompts_to_the_tests() -> None:
    """As of HumanEval/32: `poly` is given, and its tests use it."""
    prompt = 'def poly(x):\n    return 2 * x - 4\n\n\ndef zero():\n    """A zero of poly."""\n'
    row = {"test": "def check(candidate):\n    assert abs(poly(candidate())) < 1e-4", "entry_point": "zero"}
    completions = ["    return 2.0", "    return 3.0", "def poly(x): return 0\ndef zero(): return 3.0"]
    assert graded(completions, row, prompt=prompt) == [1.0, 0.0, 0.0]


def test_setup_serves_the_program_and_may_use_it() -> None:
    """As of LeetCode's `isBadVersion`, and of MBPP's trees of the program's own class."""
    uses = "def first(n): return next(i for i in range(n) if is_bad(i))"
    row = {"test_list": ["assert first(9) == 4"], "test_setup_code": "def is_bad(n): return n >= 4"}
    assert graded([uses, "def first(n): return 3"], row) == [1.0, 0.0]
    tree = "class Node:\n    def __init__(self, d): self.d, self.left = d, None\n"
    height = "def height(n): return 1 + height(n.left) if n else 0"
    row = {
        "test_list": ["assert height(root) == 2"],
        "test_setup_code": "root = Node(1)\r\nroot.left = Node(2)",
    }
    assert graded([tree + height, tree + height.replace("1 +", "2 +")], row) == [1.0, 0.0]


@pytest.mark.parametrize(
    "test",
    [
        "import sys, io\nsys.stdout = io.StringIO()\nadd(1, 2)",
        "from unittest import mock\nwith mock.patch('os.x'): pass",
    ],
)
def test_tests_that_need_the_programs_own_process_are_a_failure_and_no_0(test: str) -> None:
    columns = {"test_list": [[test], ["assert add(1, 2) == 3"]]}
    scored = score(["code"], [RIGHT, RIGHT], columns, max_failure_fraction=1.0)
    assert "its tests change the process" in (scored[0].failure or "")
    assert scored[1].reward == 1.0


@pytest.mark.parametrize("as_json", [False, True])
def test_assertions_and_partial_credit(as_json: bool) -> None:
    tests = [
        "assert add(1, 2) == 3",
        "assert add(2, 0) == 2",
        "assert add(0, 0) == 0",
        "assert add(zero, 1) == 1",
    ]
    row = {"test_list": json.dumps(tests) if as_json else tests, "test_setup_code": "zero = 0"}
    assert graded([RIGHT, WRONG], row) == [1.0, 0.0]
    assert graded([RIGHT, WRONG, "add"], row, partial_credit=True) == [1.0, 0.5, 0.0]
    assert graded([WRONG], row, partial_credit=True, max_tests=1) == [0.0]


PAIRS = [{"input": "1 2\n", "output": "3"}, {"input": "2 0", "output": "2\n"}]


@pytest.mark.parametrize(
    "row",
    [
        {"test_cases": PAIRS},
        {"input_output": json.dumps({"inputs": ["1 2\n", "2 0"], "outputs": ["3", "2\n"]})},
        {"inputs": ["1 2\n", "2 0"], "outputs": ["3", "2\n"]},
    ],
)
def test_input_and_output(row: dict) -> None:
    right = "print(sum(map(int, input().split())))  "
    wrong = "a, b = map(int, input().split())\nprint(a - b)"
    assert graded([right, wrong], row) == [1.0, 0.0]
    assert graded([wrong], row, partial_credit=True) == [0.5]


def test_rows_without_tests_do_not_apply() -> None:
    for column, empty in (
        ("test_list", [None, [], [""], ["", " \n"]]),
        ("test", [None, "", " \n"]),
        ("input_output", [{"inputs": [], "outputs": []}, '{"inputs": [], "outputs": []}']),
    ):
        scored = score(["code"], [RIGHT] * len(empty), {column: empty}, max_failure_fraction=1.0)
        assert {one.rewards["code"] for one in scored} == {None}


def test_tests_that_only_define_functions_are_a_failure_and_no_1() -> None:
    tests = [
        HUMANEVAL["test"],
        f'"""Tests."""\nimport math\n{HUMANEVAL["test"]}',
        f"{HUMANEVAL['test']}\ncheck(add)",
    ]
    scored = score(["code"], [WRONG] * 3, {"test": tests}, max_failure_fraction=1.0)
    assert ["its tests call nothing" in (one.failure or "") for one in scored] == [True, True, False]
    assert scored[2].reward == 0.0


@pytest.mark.slow
def test_what_became_of_each_is_counted_and_kept() -> None:
    async def run() -> None:
        limits = SandboxLimits(timeout_s=1.0)
        with RewardPool(resolve_all(["code"]), num_workers=1, timeout_s=5, sandbox=limits) as pool:
            assert pool.notes[0].startswith(
                "reward 'code': generated code runs in a sandbox: no network, own process tree"
            )
            hang = "def add(a, b):\n    while True: pass"
            big = "def add(a, b): return bytearray(1 << 30)"
            abort = "def add(a, b):\n    import os\n    os.abort()"
            completions = [RIGHT, WRONG, hang, big, abort, "def add(a, b): return f(\n"]
            columns = {name: [value] * 6 for name, value in HUMANEVAL.items()}
            scored = await pool.score(["p"] * 6, completions, columns)
            assert [one.reward for one in scored] == [1.0, 0, 0, 0, 0, 0]
            causes = [one.extra["code_outcome"] for one in scored]
            assert causes == [
                "ok",
                "AssertionError",
                "timeout",
                "MemoryError",
                "signal SIGABRT",
                "SyntaxError",
            ]
            metrics = pool.metrics()
            assert metrics["code_passed"] == metrics["code_timeout"] == pytest.approx(1 / 6)
            assert metrics["code_killed"] == pytest.approx(2 / 6)
            assert metrics["workers_killed"] == 0

    asyncio.run(run())
