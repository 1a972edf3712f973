"""What a program may try against the machine and against other programs, in each way that a sandbox can be had: as root
and as an ordinary user, with namespaces and without."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hone
from hone.rollout.sandbox import landlock, root_filesystem

LIMITS = {"timeout_s": 10.0, "memory_mb": 256, "max_processes": 12, "disk_mb": 8, "output_kb": 64}
DRIVER = Path(__file__).resolve().parents[3] / "helpers" / "sandbox_driver.py"
MODES = (
    *("root", "user"),
    *(
        pytest.param(m, marks=pytest.mark.slow)
        for m in ("root without namespaces", "user without namespaces")
    ),
    *(pytest.param(m, marks=pytest.mark.slow) for m in ("nobody", "nobody without namespaces")),
)
"""A user: in a namespace of its own, root's, as seen from outside. Nobody: with the system's Python, since it must be
anybody's."""
SEEK = '''
import ctypes, os
libc = ctypes.CDLL(None)
libc.sbrk.restype, libc.sbrk.argtypes = ctypes.c_void_p, (ctypes.c_ssize_t,)
libc.write.argtypes = ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t
def seek(reversed_word):
    """Whether this memory, the heap and what lies around objects, holds a word that is nowhere in the source."""
    size, begins = len(reversed_word), reversed_word[:-8:-1].encode()
    out, into = os.pipe()
    top = libc.sbrk(0)
    for begin, end in ((top - (24 << 20), top), (id([]) - (16 << 20), id([]) + (16 << 20))):
        for page in range(begin & ~4095, end, 4096):
            if libc.write(into, page, 4096) != 4096:  # a page that is not there is an error, and no crash
                continue
            held = os.read(out, 4096)
            at = held.find(begins)
            while at >= 0:
                if held[at : at + size][::-1] == reversed_word.encode():
                    return True
                at = held.find(begins, at + 1)
    return False
'''
WORD = "zebra_in_the_tests_of_another"
REFUSED = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
found = [libc.shmget(0x5151, 1 << 28, 0o1666), libc.msgget(0x5151, 0o1666), libc.semget(0x5151, 1, 0o1666)]
found += [libc.shmat(0, None, 0) if libc.shmat(0, None, 0) == -1 else 0, libc.msgsnd(0, b"x" * 16, 8, 0)]
rt = ctypes.CDLL(None)
found += [rt.mq_open(b"/hone", 0o102, 0o666, None), libc.ptrace(16, 1, 0, 0), libc.socket(1, 2, 0)]
assert all(each == -1 for each in found), found
import os
for name in ("a", "b"):
    try: os.memfd_create(name)
    except PermissionError: continue
    raise AssertionError("memfd")
"""
FILES = """
import glob, os
seen = []
for path in {paths}:
    try:
        open(path, 'rb').read(10)
        seen.append(path)
    except OSError:
        pass
for folder in ('/root', '/home', '/proc/1', '/proc/self/fd', '/sys', '/var', '/run', '/etc', '/usr/bin', {here!r}):
    try: found = os.listdir(folder)
    except OSError: continue
    found = [folder + '/' + each for each in found]
    seen += [each for each in found if each not in {known}]
print(seen)
"""
SECRETS = """
import ctypes, os
libc = ctypes.CDLL(None)
libc.getenv.restype = ctypes.c_char_p
print(os.environ.get('A_SECRET'), libc.getenv(b'A_SECRET'), os.getcwd() == os.environ['HOME'])
"""
LEAVES = """
import os, time
open('left', 'w').write('x')
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(60)
    os._exit(0)
"""
KILLS = """
import os, signal
for pid in {pids}:
    try: os.kill(pid, signal.SIGKILL)
    except OSError: pass
"""
FLOOD = """
import os, time
count = 0
try:
    while count < 200:
        if os.fork() == 0: time.sleep(60)
        count += 1
        time.sleep(0.005)
except OSError: pass
print(count)
"""
ADD = "def f(x): return x + 1"


def programs(victims: list[int]) -> dict[str, dict[str, Any]]:
    """Each with what it is run with, in this order, in one sandbox. victims: what it is to kill, and nothing else:
    where a sandbox has no namespaces these are processes of the machine."""
    here = str(Path(__file__).resolve().parent)
    paths = [
        "/etc/passwd",
        "/etc/hostname",
        "/proc/self/environ",
        "/proc/1/cmdline",
        str(DRIVER),
        "/dev/kmsg",
        "/bin/sh",
    ]
    known = {"/etc/ld.so.cache", "/usr/bin/python3", os.path.realpath("/usr/bin/python3")}
    known |= {str(parent) for place in (sys.prefix, sys.base_prefix) for parent in Path(place).parents}
    secret = f"# {WORD}\n{ADD}"
    return {
        "holds a word": {
            "source": secret,
            "tests": [f"assert f(1) == 2, '{WORD}'"],
            "support": f"x = '{WORD}'",
        },
        "seeks the word": {"source": f"{SEEK}\nprint(seek({WORD[::-1]!r}))"},
        "seeks it while judged": {
            "source": f"{SEEK}\ndef f(): return seek({WORD[::-1]!r})",
            "tests": ["assert f() is False"],
            "support": f"expected = '{WORD}'",
        },
        "seeks its own": {
            "source": f"{SEEK}\nword = {WORD[::-1]!r}[::-1].encode() * 9\nprint(seek({WORD[::-1]!r}))"
        },
        "makes what outlives it": {"source": REFUSED},
        "reads files": {"source": FILES.format(paths=paths, here=here, known=known)},
        "reads the environment": {"source": SECRETS},
        "leaves a file and a process": {"source": LEAVES},
        "looks for what was left": {"source": "import os; print(os.listdir())"},
        "fills the disk": {"source": "f = open('f', 'wb')\nwhile True: f.write(b'x' * (1 << 20))"},
        "floods": {"source": FLOOD},
        "kills others": {"source": KILLS.format(pids=victims)},
        "is honest": {"source": ADD, "tests": ["assert f(1) == 2"]},
        "imports": {"source": "import ssl, sqlite3, ctypes, asyncio\nasyncio.run(asyncio.sleep(0))"},
        "semaphores": {"source": "import multiprocessing as m\nwith m.Lock(): m.Array('i', 3)"},
    }


@pytest.fixture(scope="module", params=MODES)
def done(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What became of each, by kind; and what is said to be in force."""
    mode, namespaces = request.param, "without" not in request.param
    command = [sys.executable, str(DRIVER)]
    if mode.startswith("root") and os.geteuid() != 0:
        pytest.skip("this is not root")
    if mode.startswith("user") and os.geteuid() == 0:
        if not shutil.which("unshare") or subprocess.run([*AS_USER, "true"], capture_output=True).returncode:
            pytest.skip("nobody else can be had here")
        command = [*AS_USER, *command]
    if mode.startswith("nobody"):
        command = [*AS_NOBODY, f"PYTHONPATH={SOURCES}", "/usr/bin/python3", str(DRIVER)]
        if os.geteuid() != 0 or subprocess.run([*command[:-1], "-c", TRY], capture_output=True).returncode:
            pytest.skip("nobody cannot run Hone here")
    limits = LIMITS | {"require_isolation": namespaces}
    with subprocess.Popen(["sleep", "120"]) as victim:
        jobs = programs([victim.pid, *((1, -1) if namespaces else ())])
        job = {"limits": limits, "namespaces": namespaces, "programs": list(jobs.values())}
        ran = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, timeout=120)
        alive = victim.poll() is None
        victim.kill()
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout) | {"alive": alive}
    if "problem" in found:
        pytest.skip(found["problem"])
    return {"mode": mode, **found, "by kind": dict(zip(jobs, found["outcomes"], strict=True))}


SOURCES = Path(hone.__file__).parents[1]
TRY = "import sys, hone.rollout.sandbox; sys.exit(sys.version_info < (3, 10))"
AS_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env"]
AS_USER = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
OPEN_ANYHOW = "without namespaces it depends on Landlock"


def test_no_text_of_another_program_or_of_the_tests_is_in_a_programs_memory(done: dict[str, Any]) -> None:
    kinds = done["by kind"]
    assert kinds["holds a word"]["cause"] == "ok"
    assert kinds["seeks its own"]["stdout"] == "True\n"  # the search finds what is there
    assert kinds["seeks the word"]["stdout"] == "False\n"
    assert kinds["seeks it while judged"]["cause"] == "ok"


def test_nothing_in_the_kernel_outlives_a_program_or_passes_its_limit(done: dict[str, Any]) -> None:
    made = done["by kind"]["makes what outlives it"]
    assert (made["cause"], made["detail"]) == ("ok", "")
    assert done["by kind"]["looks for what was left"]["stdout"] == "[]\n"
    assert done["by kind"]["fills the disk"]["cause"] == "OSError"
    flood = done["by kind"]["floods"]
    assert flood["cause"] == "processes" or int(flood["stdout"]) <= LIMITS["max_processes"]


def test_files_and_secrets_of_the_machine_are_out_of_sight(done: dict[str, Any]) -> None:
    if "without" in done["mode"] and not landlock.version():
        pytest.skip(OPEN_ANYHOW)
    assert done["by kind"]["reads files"]["stdout"] == "[]\n"
    assert done["by kind"]["reads the environment"]["stdout"] == "None None True\n"


def test_others_are_not_reached_by_signals(done: dict[str, Any]) -> None:
    if "without" in done["mode"] and not landlock.bounds_signals():
        pytest.skip(OPEN_ANYHOW)
    assert done["by kind"]["kills others"]["cause"] in ("ok", "signal SIGKILL")
    assert done["alive"]
    assert done["by kind"]["is honest"]["cause"] == "ok"


def test_a_program_can_import_the_standard_library_and_packages(done: dict[str, Any]) -> None:
    for kind in ("imports", *(() if "without" in done["mode"] else ("semaphores",))):  # those lie in /dev/shm
        assert (done["by kind"][kind]["cause"], done["by kind"][kind]["detail"]) == ("ok", ""), kind


def test_the_isolation_names_what_programs_may_still_do(done: dict[str, Any]) -> None:
    assert done["says"].startswith("no network")
    if "without" in done["mode"]:
        assert "NO NAMESPACES" in done["says"]
        can = done["says"].partition("A program can")[2]
        assert ("files" in can) == (landlock.version() == 0)
        assert ("end " in can) == (not landlock.bounds_signals())
    else:
        assert "a root with Python alone" in done["says"]
        assert "A program can" not in done["says"]
    assert ("a user of its own" in done["says"]) == (done["mode"].startswith("root"))


def test_programs_work_where_nothing_that_python_needs_is_covered() -> None:
    for paths, folder in (((), "/tmp"), (("/tmp/venv/lib",), "/work"), (("/tmp/venv", "/work/x"), "/box")):
        assert root_filesystem.work_folder(root_filesystem.PythonFiles(paths, (), ())) == folder
