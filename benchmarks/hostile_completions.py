"""Completions that mean harm, and honest ones among them, for the reward functions math, code, json_schema and regex.

`completions(n, seed)` draws n of them. Each says which function judges it, and the reward that an honest one must get
whatever stands beside it. Floods are bounded, and everything is meant to be run behind `hone.rollout.rewards` alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

TEST = "def check(candidate):\n    assert candidate(2, 2) == 4"
COLUMNS = {"answer": "4", "test": TEST, "entry_point": "add"}
PATTERN = r"^(a+)+$"
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "pattern": PATTERN}, "value": {}},
    "required": ["name"],
}


@dataclass(frozen=True)
class Hostile:
    """One completion."""

    kind: str
    judge: str
    text: str
    reward: float | None = None
    """What an honest one must get; None: whatever comes, it is no 1."""


HONEST = [
    Hostile("honest", "math", r"So \boxed{4}.", 1.0),
    Hostile("honest", "math", r"So \boxed{\frac{8}{2}}.", 1.0),
    Hostile("honest", "math", r"So \boxed{5}.", 0.0),
    Hostile("honest", "code", "def add(a, b):\n    return a + b", 1.0),
    Hostile("honest", "code", "def add(a, b):\n    return a - b + 1", 0.0),
    Hostile("honest", "json_schema", '{"name": "aaa"}', 1.0),
    Hostile("honest", "json_schema", '{"value": 1}', 0.0),
    Hostile("honest", "regex", "aaaa", 1.0),
    Hostile("honest", "regex", "b", 0.0),
]

_ADD = "\ndef add(a, b): return a + b\n"
QUICK_PROGRAMS = {
    "1 GB": "x = bytearray(1 << 30)",
    "1 GB, little by little": "x = []\nwhile True: x.append(bytearray(1 << 24))",
    "1 GB of text": "x = 'x' * (1 << 30)",
    "huge int as text": "import sys\nx = str(10 ** 1_000_000)",
    "flood of processes": "import os, time\nfor _ in range(30):\n    if os.fork() == 0:\n        time.sleep(300)",
    "daemon": "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(300)",
    "flood of threads": "from threading import Timer\nfor _ in range(40): Timer(300, print).start()",
    "flood of commands": "import subprocess\nfor _ in range(30): subprocess.Popen(['sleep', '300'])",
    "no folder": "import os, shutil\nshutil.rmtree(os.getcwd())",
    "no folder 2": "import os\nos.makedirs('d/e'); os.chdir('d/e'); os.removedirs('../../d/e')",
    "rm -rf": "import subprocess, sys\nsubprocess.run(['rm', '-rf', '--no-preserve-root', '/'], stderr=-3)",
    "recursion": "def f(): return f()\nf()",
    "kill -9 self": "import os\nos.kill(os.getpid(), 9)",
    "kill -15 self": "import os\nos.kill(os.getpid(), 15)",
    "stop self and all": "import os\nos.kill(-1, 9)\nos.kill(0, 9)",
    "abort": "import os\nos.abort()",
    "segfault": "import ctypes\nctypes.string_at(0)",
    "no stdout": "import sys\nsys.stdout.close()\nsys.stderr.close()\nraise RuntimeError",
    "no descriptors": "import os\nos.closerange(0, 1000)",
    "flood of output": "while True: print('x' * 10_000)",
    "flood of errors": "import sys\nwhile True: sys.stderr.write('x' * 10_000)",
    "flood of verdicts": 'import os\nwhile True: os.write(3, b\'[1, 0, "ok", ""]\\n\')',
    "exit 0": "import os\nos._exit(0)",
    "sys.exit": "import sys\nsys.exit(0)",
    "NUL": "x = 'a\0b'" + _ADD.replace("a + b", "0"),
    "surrogates": "x = '\ud800\udfff'",
    "prints surrogates": "print('\\ud800')\nraise ValueError('\\ud800')",
    "bad unicode": "\ufeff\u202e\u0000" + "é" * 100,
    "nested brackets": "x = " + "[" * 3000 + "]" * 3000,
    "nested parentheses": "x = " + "(" * 50_000,
    "nested operators": "x = " + "-" * 50_000 + "1",
    "long line": "x = '" + "y" * 500_000 + "'\nraise ValueError",
    "exception without text": "class E(BaseException):\n    def __str__(self): raise self\nraise E",
    "no builtins": "import builtins\nbuiltins.__dict__.clear()\nprint(1)",
    "no modules": "import sys\nsys.modules.clear()\nimport json",
    "big file": "f = open('f', 'wb')\nwhile True: f.write(b'x' * (1 << 20))",
    "many files": "for i in range(100_000): open(str(i), 'w').close()",
    "many open": "x = [open('f', 'w') for _ in range(10_000)]",
    "network": "import urllib.request\nurllib.request.urlopen('http://1.1.1.1', timeout=1)",
    "limits": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))\nx = bytearray(1 << 30)",
    "replaces the judge": "def check(candidate): pass\ndef add(a, b): return 5",
    "environment": "import os\nos.environ.clear()\nos.chdir('/')\nos.setsid()",
}
_WORKED = "\ndef add(a, b): return 4 if worked else 0\n"
_LIBC = "import ctypes\nlibc = ctypes.CDLL(None)\nworked = "
_OPENS = (
    "worked = 0\nfor path in {}:\n    try: open(path, 'rb').read(1); worked = 1\n    except OSError: pass"
)
_EQUAL = "class A:\n    def __eq__(self, other): return True\n    def __sub__(self, other): return 0\n"
QUICK_PROGRAMS |= {  # these get a 1 if what they try works
    "shared memory": f"{_LIBC}libc.shmget(0x5151, 1 << 28, 0o1666) >= 0{_WORKED}",
    "message queue": f"{_LIBC}libc.msgget(0x5151, 0o1666) >= 0{_WORKED}",
    "named queue": f"{_LIBC}libc.mq_open(b'/hone', 0o102, 0o666, None) >= 0{_WORKED}",
    "memfd": f"import os\ntry: worked = os.memfd_create('x')\nexcept OSError: worked = 0{_WORKED}",
    "ptrace": f"{_LIBC}libc.ptrace(0, 0, 0, 0) >= 0{_WORKED}",
    "local socket": f"{_LIBC}libc.socket(1, 1, 0) >= 0{_WORKED}",
    "namespace": f"{_LIBC}libc.unshare(0x10000000) >= 0{_WORKED}",
    "reads /etc": _OPENS.format("('/etc/passwd', '/etc/hosts', '/bin/sh')") + _WORKED,
    "reads /proc": _OPENS.format("('/proc/self/environ', '/proc/1/cmdline', '/proc/self/maps')") + _WORKED,
    "sees processes": f"import os\nworked = any(map(str.isdigit, os.listdir('/proc'))){_WORKED}",
    "kills all others": f"import os\ntry: os.kill(-1, 9)\nexcept OSError: pass\nworked = 0{_WORKED}",
    "equals everything": f"{_EQUAL}add = lambda a, b: A()",
    "is a class that equals": f"{_EQUAL}class add(A):\n    def __init__(self, *a): pass",
    "patches compile": "import builtins\nbuiltins.compile = lambda *a, **k: (lambda: 0).__code__\nadd = max",
    "patches exec": "import builtins\nbuiltins.exec = lambda *a: None\nadd = max",
    "raises ok": "class ok(BaseException): pass\ndef add(a, b): raise ok",
    "exits when asked": "import os\ndef add(a, b): os._exit(0)",
    "exits at exit": "import atexit, os\natexit.register(os._exit, 0)\nadd = max",
    "exits in a thread": "import os, threading\nthreading.Timer(0.01, os._exit, (0,)).start()\nadd = max",
    "forges verdicts": 'import os\nfor fd in (1, 2, 3, 4, 5): os.write(fd, b\'[0, true, "ok", ""]\\n\')\nadd = max',
    "forges answers": "import os\nm = b'{\"r\": 4}'\nos.write(5, (len(m).to_bytes(8, 'big') + m) * 99)\nadd = max",
    "endless answer": "import os\nos.write(5, (1 << 60).to_bytes(8, 'big') + b'x' * 999)\nadd = max",
}
SLOW_PROGRAMS = {
    "endless loop": "while True: pass",
    "endless in the answer": "def add(a, b):\n    while True: pass",
    "deaf": "import signal, time\nfor s in (1, 2, 13, 15): signal.signal(s, signal.SIG_IGN)\nwhile True: time.sleep(1)",
    "9**9**9": "x = 9 ** 9 ** 9",
    "bad regex": "import re\nre.match('(a+)+$', 'a' * 60 + 'b')",
    "deep recursion": "import sys\nsys.setrecursionlimit(1 << 30)\ndef f(): return f()\nf()",
    "busy flood": "import os\nfor _ in range(8):\n    if os.fork() == 0:\n        while True: pass\nwhile True: pass",
    "reads for ever": "import os\nr, w = os.pipe()\nos.read(r, 1)",
    "swallows everything": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
}
QUICK_MATH = {
    "a million digits": r"\boxed{" + "9" * 1_000_000 + "}",
    "a thousand digits": r"\boxed{" + "9" * 1_000 + "}",
    "unclosed": r"\boxed{" * 20_000,
    "dollars": "$" * 100_000,
    "megabyte": "x" * 1_000_000,
    "NUL": "\\boxed{4\0\0}\0",
    "surrogates": "\\boxed{\ud800}",
    "nothing": "",
    "tags": "<answer>" * 20_000 + "</answer>" * 20_000,
    "closed too often": r"\boxed{" + "}" * 10_000,
}
SLOW_MATH = {
    "9^9^9": r"\boxed{9^{9^{9}}}",
    "tower": r"\boxed{2^{2^{2^{2^{2^{2}}}}}}",
    "factorial": r"\boxed{99999999!}",
    "nested fractions": r"\boxed{" + r"\frac{1}{" * 120 + "4" + "}" * 120 + "}",
    "nested roots": r"\boxed{" + r"\sqrt{" * 150 + "4" + "}" * 150 + "}",
    "nested brackets": r"\boxed{" + r"\left(" * 100 + "4" + r"\right)" * 100 + "}",
    "long sum": r"\boxed{\sum_{n=1}^{1000000000} \frac{1}{n^{2}}}",
    "huge power": r"\boxed{(1+x)^{99999999}}",
    "huge exponent": r"$10^{10^{10}} + 1e999999999$",
    "huge set": r"\boxed{\{" + ",".join(map(str, range(400))) + r"\}}",
}
QUICK_JSON = {
    "nested": "[" * 100_000,
    "nested, closed": '{"a":' * 900 + "1" + "}" * 900,
    "a million digits": '{"name": "a", "value": ' + "9" * 999_000 + "}",
    "NaN": '{"name": NaN}',
    "surrogates": '{"name": "\ud800"}',
    "NUL": '{"name": "a\0"}',
    "megabytes": '{"name": "' + "b" * 2_000_000 + '"}',
    "fences": "```\n" * 50_000,
    "exponent": '{"name": 1e999999999}',
}
SLOW_JSON = {"bad regex": '{"name": "' + "a" * 40 + 'b"}'}
QUICK_TEXT = {"megabytes": "b" * 2_000_000, "NUL": "\0" * 1000, "surrogates": "\ud800" * 1000}
SLOW_TEXT = {"bad regex": "a" * 40 + "b", "worse regex": "a" * 200 + "b"}

_SLOW_SHARE = 0.08
_HONEST_SHARE = 0.2


def completions(n: int, seed: int = 0) -> list[Hostile]:
    """n completions: a fifth honest, some that only a limit of time can end, the rest quick."""
    chance = random.Random(seed)
    quick = _all(QUICK_PROGRAMS, QUICK_MATH, QUICK_JSON, QUICK_TEXT)
    slow = _all(SLOW_PROGRAMS, SLOW_MATH, SLOW_JSON, SLOW_TEXT)
    drawn = []
    for _ in range(n):
        share = chance.random()
        pick: Callable[[list[Hostile]], Hostile] = chance.choice
        drawn.append(pick(HONEST if share < _HONEST_SHARE else slow if share > 1 - _SLOW_SHARE else quick))
    return drawn


def each_once() -> list[Hostile]:
    """Every kind, and every honest one."""
    quick = _all(QUICK_PROGRAMS, QUICK_MATH, QUICK_JSON, QUICK_TEXT)
    return HONEST + quick + _all(SLOW_PROGRAMS, SLOW_MATH, SLOW_JSON, SLOW_TEXT)


def _all(*kinds: dict[str, str]) -> list[Hostile]:
    judges = ("code", "math", "json_schema", "regex")
    return [
        Hostile(kind, judge, text)
        for judge, texts in zip(judges, kinds, strict=True)
        for kind, text in texts.items()
    ]
