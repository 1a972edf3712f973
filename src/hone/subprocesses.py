"""Child processes that end when their parent does, however the parent ends.

The parent holds the writing end of a pipe and never writes to it. The kernel closes that end when the parent dies, also
after SIGKILL, and the child, which waits on the reading end, kills itself. Only the standard library is imported.
"""

from __future__ import annotations

import os
import signal
import threading


def end_with_parent(reading_end: int, *, whole_group: bool = False) -> None:
    """Start a thread that kills this process, or its whole process group, when the pipe's other end is closed."""

    def wait() -> None:
        while os.read(reading_end, 1):
            pass
        if whole_group:
            os.killpg(os.getpgid(0), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True, name="end-with-parent").start()
