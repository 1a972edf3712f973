"""The process of one program: everything that the model wrote runs below `run`, and nothing of ours after it.

What became of it is told on a pipe, line by line, as JSON `[nonce, number of the test, "ok" or the exception, what it
said]`: what came before a crash is kept. A program that ends early, by `sys.exit(0)` or a signal, has passed nothing.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from typing import Any, NoReturn

from hone.rollout.sandbox.jail import Jail, limit

_MAX_DETAIL = 300


def run(jail: Jail, request: dict[str, Any], streams: tuple[int, int, int, int]) -> NoReturn:
    """Become the program. streams: descriptors of its input, output, errors, and of the verdict."""
    _settle(jail, request, streams)
    _judge(request, 3)


def _settle(jail: Jail, request: dict[str, Any], streams: tuple[int, int, int, int]) -> None:
    """Nothing of the server's is left: not its descriptors, privileges, environment, folder or signal handlers."""
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(4, 1024)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.chdir(jail.directory)
    os.environ.clear()
    os.environ |= {
        "HOME": jail.directory,
        "TMPDIR": jail.directory,
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
    }
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # each thread reserves memory
    os.umask(0o077)
    jail.drop()
    limits = request["limits"]
    limit(
        limits["memory_mb"],
        limits["max_processes"],
        limits["disk_mb"],
        limits["max_open_files"],
        request["seconds"],
    )
    sys.argv[:] = ["program.py"]
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
        for number, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    random.seed(0)  # a run that goes on from a checkpoint sees the same


def _judge(request: dict[str, Any], verdict: int) -> NoReturn:
    """Run the program, then its tests, each in the names that the program left."""
    write, leave, nonce = os.write, os._exit, request["nonce"]

    def attempt(number: int, source: str, names: dict[str, Any]) -> bool:
        try:
            exec(
                compile(source, "<program>" if number < 0 else f"<test {number}>", "exec", dont_inherit=True),
                names,
            )
            told = ["ok", ""]
        except SystemExit as error:
            told = ["ok", ""] if number < 0 and error.code in (None, 0) and not tests else ["SystemExit", ""]
        except BaseException as error:
            # Nothing may pass: the process belongs to the program now, and what it raised is the result.
            told = [type(error).__name__[:100], _said(error)]
        try:
            write(verdict, json.dumps([nonce, number, *told]).encode() + b"\n")
        except OSError:  # the program closed it
            leave(1)
        return told[0] == "ok"

    tests = request["tests"]
    names: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
    if attempt(-1, request["source"], names) and (
        not request["support"] or attempt(-2, request["support"], names)
    ):
        for number, test in enumerate(tests):
            attempt(number, test, names)
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        leave(1)
    leave(0)


def _said(error: BaseException) -> str:
    try:
        return str(error)[:_MAX_DETAIL]
    except BaseException as raised:  # an exception that the program made, and which cannot be printed
        return f"(cannot be printed: {type(raised).__name__})"
