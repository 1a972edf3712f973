"""Sets up a forked process for a program or its judge: it keeps only the imported modules of the spawner."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from hone.rollout.sandbox.jail import Jail

REPORT, TEXT, LINK = 3, 4, 5
"""Descriptors besides the standard ones: for its report, its source text, and the link to the other process."""
_FREE, _MAX_DESCRIPTOR = 64, 1 << 12


def enter_sandbox(
    jail: Jail, limits: Mapping[str, Any], seconds: float, streams: Sequence[int], visible: bool
) -> None:
    """Keep only `streams`, as descriptors 0, 1, …; reset privileges, environment, directory and signal handlers.
    visible: processes of the same user may read this process's memory, to measure it."""
    os.setsid()
    high = [fcntl.fcntl(stream, fcntl.F_DUPFD, _FREE) for stream in streams]
    for number, stream in enumerate(high):
        os.dup2(stream, number)
    os.closerange(len(high), _MAX_DESCRIPTOR)
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(name, signal.SIG_DFL)
    os.chdir(jail.directory)
    os.environ.clear()
    os.environ |= dict.fromkeys(("HOME", "TMPDIR"), jail.directory)
    os.environ |= {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # each thread reserves memory
    os.umask(0o077)
    _limit(limits, seconds)
    jail.drop_privileges(visible)
    sys.argv[:] = ["program.py"]
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
        for number, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    random.seed(0)  # a resumed run gets the same numbers


def text() -> bytes:
    """The source code that this process runs."""
    with open(TEXT, "rb") as file:
        return file.read()


def _limit(limits: Mapping[str, Any], seconds: float) -> None:
    """Set the limits of this process and of each that it starts."""
    bounds = {
        "RLIMIT_CORE": 0,
        "RLIMIT_MSGQUEUE": 0,
        "RLIMIT_AS": limits["memory_mb"] << 20,
        "RLIMIT_FSIZE": limits["disk_mb"] << 20,
        "RLIMIT_NOFILE": limits["max_open_files"],
        "RLIMIT_NPROC": limits["max_processes"],
        "RLIMIT_CPU": int(seconds) + 2,
    }
    for name, value in bounds.items():
        # macOS has no RLIMIT_MSGQUEUE and refuses RLIMIT_AS.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            number = getattr(resource, name)
            hard = resource.getrlimit(number)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(number, (value, value))
