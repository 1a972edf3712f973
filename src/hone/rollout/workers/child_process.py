"""What every process has that answers requests for a run: its limits, and its end with the run.

The standard library alone is imported: these processes start fast.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import threading


def end_with_parent() -> None:
    """Standard input is a pipe on which the parent never writes: it closes when the parent dies.

    On Linux the kernel signals our process group then (SIGIO, whose default action is to end a process),
    which ends us even inside C code that holds the interpreter's lock. Elsewhere a thread waits for the end
    of the pipe.
    """
    lifeline = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if sys.platform == "linux":
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    else:
        threading.Thread(target=lambda: (os.read(lifeline, 1), os._exit(1)), daemon=True).start()


def limit(memory_limit_mb: int | None) -> None:
    """No core dumps; an address space as large as asked; and the first to be killed when memory runs out."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        # /proc may be closed.
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
        if memory_limit_mb is not None:
            size = memory_limit_mb * 1024 * 1024
            resource.setrlimit(resource.RLIMIT_AS, (size, size))
