"""Tests of a program run in another process than the program: what they can use of it, and what cannot deceive them."""

from __future__ import annotations

import pytest

from hone.rollout.sandbox import Sandbox

USED = """
### in place
def f(x): x[0].append(3); x[1]['k'] = {1}
---
x = [[1], {}]; y = x[0]; f(x); assert y == [1, 3] and x[1] == {'k': {1}}
### same object
def f(x): return x
---
x = [1]; assert f(x) is x and f(x=x) is x
### callback
def f(g, xs): return sorted(xs, key=g), list(map(g, xs))
---
seen = []
def g(x):
    seen.append(x)
    return -x
assert f(g, [1, 2]) == ([2, 1], [-1, -2]) and seen == [1, 2, 1, 2]
### callback that raises
def f(g):
    try: g()
    except KeyError as e: return e.args[0]
---
def g(): raise KeyError('k')
assert f(g) == 'k'
### built-in callbacks
def f(g, xs): return g(xs)
---
assert f(len, [1, 2]) == 2 and f(set, [1, 1]) == {1} and f(sum, [3]) == 3
### class
class S:
    def __init__(self, n=0): self.n = n
    def push(self, k): self.n += k; return self
    def __len__(self): return self.n
---
s = S(n=1); s.push(2).push(3)
assert len(s) == 6 and s.n == 6 and isinstance(s, S)
s.n = 2
assert len(s) == 2 and not isinstance(3, S)
### class's own equality
class P:
    def __init__(self, x): self.x = x
    def __eq__(self, o): return self.x == o.x
    def __add__(self, o): return P(self.x + o.x)
---
assert P(1) + P(2) == P(3) and P(1) != P(2)
### object of the tests
def f(node):
    n = 0
    while node: n, node = n + node.value, node.next
    return n
---
class Node:
    def __init__(self, value, next=None): self.value, self.next = value, next
assert f(Node(1, Node(2))) == 3
### objects back
class N: pass
def f(n): n.seen = 1; return n
---
n = N(); assert f(n) is n and n.seen == 1
### exception
class Bad(ValueError): pass
def f(x):
    if x: raise Bad('no')
    return {}['k']
---
for kind, x in ((Bad, 1), (ValueError, 1), (KeyError, 0)):
    try:
        f(x)
        assert False
    except kind as e: assert str(e) in ('no', "'k'")
### unittest
def f(x): raise TypeError('t')
---
import unittest
class T(unittest.TestCase): pass
T().assertRaises(TypeError, f, 1)
### generator
def f(n):
    for i in range(n): yield i
---
assert list(f(3)) == [0, 1, 2] and sum(f(4)) == 6
g = f(2); assert next(g) == 0
### async
async def f(x): return x + 1
---
import asyncio
assert asyncio.run(f(1)) == 2
### context
class C:
    def __enter__(self): return 5
    def __exit__(self, *e): return e[0] is ValueError
---
with C() as c: raise ValueError(c)
assert c == 5
### derived list
class L(list):
    def top(self): return self[-1]
---
x = L([1, 2]); assert x == [1, 2] and x.top() == 2 and x + [3] == [1, 2, 3] and len(x) == 2 and 2 in x
### named tuple
from collections import namedtuple
P = namedtuple('P', 'x y')
def f(): return P(1, 2)
---
assert f() == (1, 2) and f().x == 1 and P(3, 4)[1] == 4
### enum
import enum
class E(enum.Enum):
    A = 1
    B = 2
class I(enum.IntEnum):
    A = 1
def f(): return E.A
---
assert f() == E.A and f() != E.B and f().value == 1 and I.A == 1
### values
from decimal import Decimal
from fractions import Fraction
import datetime, collections
def f(x): return x
---
from decimal import Decimal
from fractions import Fraction
import datetime, collections
for x in (
    *(2**80, -2**80, 1e-300, -0.0, float('inf'), 1j, b'\\xff', bytearray(b'a'), None, ..., (), frozenset({1})),
    *(range(9, 1, -2), slice(1), '\\ud800', Decimal('1.10'), Fraction(1, 3), datetime.date(2026, 1, 2), int),
    *(datetime.datetime(2026, 1, 2, 3), datetime.timedelta(-1, 5), collections.deque([1], 3), {(1, 'a'): [True]}),
    *(collections.Counter('aab'), collections.OrderedDict(a=1)),
):
    assert f(x) == x and type(f(x)) is type(x), x
assert f(float('nan')) != f(float('nan'))
x = [1]; x.append(x); y = f(x); assert y[1] is y
### numpy
import numpy as np
def f(): return np.array([[1.5, 2]]), np.float64(0.5), np.int64(3), np.bool_(True)
---
import numpy as np
a, b, c, d = f()
assert (a == [[1.5, 2]]).all() and b == 0.5 and c == 3 and d is True and a.dtype == np.float64
### names of imports
import math
from collections import Counter
def f(): return Counter('aa')
---
assert f() == Counter('aa') and math.sqrt(4) == 2
### a built-in's name
def sum(a, b): return a * b
---
assert sum(3, 4) == 12
### a global
table = [1]
def f(): table.append(2)
---
f()
### prints
def f():
    print('x' * 10)
    return 1
---
print('y'); assert f() == 1
### files
def f(path): return open(path).read()
---
open('made', 'w').write('text'); assert f('made') == 'text'
### large
def f(x): return sorted(x)
---
x = [(i * 7919) % 30_011 for i in range(30_000)]
assert f(x) == sorted(x) and f([y / 7 for y in x]) == sorted(y / 7 for y in x) and f(map(str, x[:9])) != x
### deep
def f(x): return x
---
x = []
for _ in range(100): x = [x]
assert f(x) == x
"""
"""Kind, a program, and a test that it passes."""


def _cases(text: str) -> dict[str, str]:
    parts = (part.partition("\n") for part in text.split("### ")[1:])
    return {kind: body for kind, _, body in parts}


@pytest.mark.parametrize("kind", _cases(USED))
def test_what_tests_can_do_with_a_program(sandbox: Sandbox, kind: str) -> None:
    source, _, test = _cases(USED)[kind].partition("---\n")
    outcome = sandbox.run(source, tests=[test])
    assert (outcome.cause, outcome.detail, outcome.passed) == ("ok", "", [True])


def test_names_are_as_the_test_before_has_left_them(sandbox: Sandbox) -> None:
    tests = [
        "f(); f()",
        "assert count == 2 and count is not None",
        "count = 7",
        "assert count == 7 and f() == 3",
    ]
    outcome = sandbox.run(
        "count = 0\ndef f():\n    global count\n    count += 1\n    return count", tests=tests
    )
    assert outcome.passed == [True] * 4


ALWAYS = "class A:\n" + "".join(
    f"    def __{name}__(self, *a): return {value}\n"
    for name, value in {
        **dict.fromkeys(("eq", "lt", "le", "gt", "ge", "contains", "bool", "instancecheck"), "True"),
        **dict.fromkeys(("sub", "rsub", "add", "abs", "int", "index", "float", "len", "hash", "call"), "0"),
        "ne": "False",
        "getattr": "self",
    }.items()
)
FRAME = """
import json, os
def say(m):
    b = json.dumps(m).encode()
    os.write(5, len(b).to_bytes(8, 'big') + b)
"""
CHEATS = """
### always equal
@ALWAYS
def f(x): return A()
### always equal class
@ALWAYS
f = A
### an equal number
class I(int):
    def __eq__(s, o): return True
    __hash__ = int.__hash__
def f(x): return I(0)
### an equal list
class L(list):
    def __eq__(s, o): return True
def f(x): return L()
### compile
import builtins
builtins.compile = lambda *a, **k: (lambda: 0).__code__
def f(x): return 0
### exec
import builtins
builtins.exec = lambda *a: None
builtins.AssertionError = None
def f(x): return 0
### print
import builtins
builtins.print = builtins.abs = lambda *a: 0
def f(x): return 0
### own built-ins
abs = lambda x: 0
sum = lambda x: 0
len = lambda x: 0
all = bool = lambda x: True
def f(x): return 0
### raises ok
class ok(Exception): pass
raise ok
### raises ok later
class ok(BaseException): pass
def f(x): raise ok
### raises SystemExit
def f(x): raise SystemExit(0)
### exits
import os
def f(x): os._exit(0)
### exits at exit
import atexit, os
atexit.register(os._exit, 0)
def f(x): return 0
### exits in a thread
import os, threading, time
threading.Thread(target=lambda: (time.sleep(0.02), os._exit(0))).start()
def f(x): time.sleep(1)
### forged verdicts
import os
for fd in (1, 2, 3, 4, 5):
    try:
        os.write(fd, b'\\n[0, true, "ok", ""]\\n[-2, true, "ok", ""]\\n')
    except OSError: pass
def f(x): return 0
### forged report
import os
os.write(3, b'["ok", ""]')
os._exit(0)
### forged answers
@FRAME
for _ in range(50): say({'r': True})
def f(x): return 0
### forged objects
@FRAME
say({'r': ['l', 0, ['D', 'abs']]})
forged = ['y', 'exec'], ['y', 'type'], ['o', 0], ['h', 0, 'exception', 'x', 'object'], ['=', 9], ['l', 5, []]
for t in forged:
    for _ in range(3): say({'r': ['t', ['value', t]]})
def f(x): return 0
### endless frame
import os
os.write(5, (1 << 60).to_bytes(8, 'big') + b'x' * 1000)
def f(x): return 0
### no JSON
import os
os.write(5, (5).to_bytes(8, 'big') + b'[[[[[')
def f(x): return 0
### nested
@FRAME
b = b'{"r": ' + b'[' * 100000
os.write(5, len(b).to_bytes(8, 'big') + b)
def f(x): return 0
### closes the link
import os
os.close(5)
def f(x): return 0
### kills its parent
import os
os.kill(os.getppid(), 9)
def f(x): return 0
### always the same name
@ALWAYS
import math
math.isclose = lambda *a, **k: True
def f(x): return A()
### unprintable
class E(Exception):
    def __str__(self): raise self
    __class__ = None
def f(x): raise E
"""
"""Programs that do not give 2 for 1."""
STRICT = [
    *("assert f(1) == 2", "assert 2 == f(1)", "assert not f(1) != 2", "assert abs(f(1) - 2) < 1e-6"),
    *("assert f(1) in (2, 3)", "assert sum([f(1)]) == 2", "assert [f(1)] == [2]", "assert {f(1)} == {2}"),
    *("assert isinstance(f(1), int) and f(1) > 1", "assert all(v == 2 for v in [f(1)])"),
    *("import math\nassert math.isclose(f(1), 2)", "assert 7 in [f(1), 7][:1]"),
]


@pytest.mark.parametrize("kind", _cases(CHEATS))
def test_a_program_cannot_deceive_its_tests(sandbox: Sandbox, kind: str) -> None:
    source = _cases(CHEATS)[kind].replace("@ALWAYS", ALWAYS).replace("@FRAME", FRAME)
    outcome = sandbox.run(source, tests=STRICT)
    assert outcome.passed == [False] * len(STRICT)
    assert not outcome.ok
    assert sandbox.run("def f(x): return x + 1", tests=STRICT[:-1]).passed == [True] * (len(STRICT) - 1)


def test_a_program_cannot_stand_in_for_a_module_that_its_tests_use(sandbox: Sandbox) -> None:
    tests = ["assert math.isclose(f(1), 2)", "assert isclose(f(1), 2)"]
    fake = "class math:\n    isclose = staticmethod(lambda *a, **k: True)\n    twice = staticmethod(lambda x: 2 * x)\n"
    fake += "isclose = math.isclose\ndef f(x): return "
    assert sandbox.run(f"{fake}0", tests=tests).passed == [False] * 2
    assert sandbox.run(f"{fake}x + 1", tests=tests).passed == [True] * 2
    assert sandbox.run(f"{fake}0", tests=["assert math.twice(2) == 4 + f(1)"]).ok  # its own class `math`
    honest = "import math\nfrom math import *\ndef f(x): return x + 1"
    assert sandbox.run(honest, tests=tests).passed == [True] * 2
    own = "def isclose(a, b): return a == b + 1"
    assert sandbox.run(own, tests=["assert isclose(2, 1)"]).ok  # the function that was asked for


def test_a_program_cannot_end_the_loop_of_a_test(sandbox: Sandbox) -> None:
    tests = [
        "assert all(map(lambda x: f(x) == x + 1, [1, 2]))",
        "for got, want in zip(map(f, [1]), [2]): assert got == want",
        "for got in iter(lambda: f(1), 2): assert got == 1",
    ]
    for raised in ("StopIteration", "type('S', (StopIteration,), {})"):
        assert sandbox.run(f"def f(x): raise {raised}", tests=tests).passed == [False] * 3
    source = "class I:\n    def __iter__(self): return self\n    def __next__(self): raise StopIteration"
    assert (
        sandbox.run(source, tests=["assert list(I()) == []", "assert next(I(), 5) == 5"]).passed == [True] * 2
    )


def test_a_program_cannot_call_what_would_run_its_text_in_the_judge(sandbox: Sandbox) -> None:
    source = "def f(g, *a):\n    try: return g(*a)\n    except TypeError: return 'refused'"
    tests = [f"assert f({name}, '1') == 'refused'" for name in ("eval", "exec", "open", "__import__")]
    assert sandbox.run(source, tests=[*tests, "assert f(len, '1') == 1"]).passed == [True] * 5


SPY = """
def f(g):
    found = []
    for name in ("__globals__", "__code__", "__closure__", "__self__", "gi_frame", "__class__", "__dict__"):
        try: found.append(getattr(g, name))
        except AttributeError: pass
    for ask in (("getattr", g, "__globals__"), ("str", ""), ("getattr", "", "format"), ("call", "".format)):
        try: found.append(type(g)._ask(g, *ask))
        except Exception: pass
        try: found.append(g._link.ask(*ask))
        except Exception: pass
    return [str(each) for each in found if each is not None and "secret" in str(each)]
"""


def test_a_program_learns_no_more_of_a_test_than_it_is_given(sandbox: Sandbox) -> None:
    support = (
        "secret = 'secret'\nclass Plain:\n    def __init__(self): self.shown, self._hidden = 1, secret\n"
        "    def m(self, *a): return len(secret)"
    )
    tests = [
        "def g(x): return len(secret)\nassert f(g) == []",
        "assert f(Plain()) == []",
        "assert f(Plain().m) == []",
    ]
    assert sandbox.run(SPY, tests=tests, support=support).passed == [True] * 3
    outcome = sandbox.run("def f(p): return p._hidden", tests=["f(Plain())"], support=support)
    assert outcome.cause == "AttributeError"
    assert sandbox.run("def f(p): return p.shown", tests=["assert f(Plain()) == 1"], support=support).ok


@pytest.mark.parametrize(
    ("name", "cause"), [("ok", "exception 'ok'"), ("memory", "exception 'memory'"), ("E", "E")]
)
def test_a_cause_of_the_programs_own_does_not_pass_for_ours(sandbox: Sandbox, name: str, cause: str) -> None:
    outcome = sandbox.run(f"class {name}(Exception): pass\nraise {name}('x')")
    assert (outcome.ok, outcome.cause, outcome.detail) == (False, cause, "x")
    later = sandbox.run(f"class {name}(Exception): pass\ndef f(): raise {name}('x')", tests=["f()"])
    assert (later.ok, later.cause, later.detail) == (False, cause, "x")
