"""Child processes that end when their parent does, in whatever way the parent ends.

The parent holds the writing end of a pipe and never writes to it. The kernel closes that end when the parent dies, also
after SIGKILL. This module imports only the standard library.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
import threading


def end_with_parent(reading_end: int | None = None, *, whole_group: bool = False) -> None:
    """End this process, or its whole process group, when the pipe's other end closes.

    `reading_end` is a descriptor of the pipe; None means standard input, which is replaced by /dev/null. On Linux the
    kernel sends SIGIO at the end of the pipe. Its default action ends the process, even while C code holds the GIL. On
    other systems a thread waits for the end of the pipe.
    """
    if reading_end is None:
        reading_end, null = os.dup(0), os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
    group = os.getpgrp() if whole_group else None

    def end() -> None:
        if group is not None:
            os.killpg(group, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    if sys.platform == "linux":
        fcntl.fcntl(reading_end, fcntl.F_SETOWN, os.getpid() if group is None else -group)
        fcntl.fcntl(reading_end, fcntl.F_SETFL, fcntl.fcntl(reading_end, fcntl.F_GETFL) | os.O_ASYNC)
        if select.select([reading_end], [], [], 0)[0]:  # the pipe was closed before SIGIO was requested
            end()
    else:
        threading.Thread(target=lambda: (os.read(reading_end, 1), end()), daemon=True).start()
