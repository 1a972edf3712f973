"""A process that kills all descendants of another one, also those that left its process group (setsid).

`fork_under_reaper()` returns in a child. Its parent is the "subreaper" (prctl(2)) that adopts orphaned descendants;
when the child or the run ends, it kills all of them and ends. Linux only: elsewhere there are process groups only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from typing import NoReturn

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_ROUNDS = 1000
_GRACE_S = 0.25


def fork_under_reaper() -> None:
    """Return in a child that leads its own session, while this process waits.

    Standard input must be a pipe without data that closes when the run ends. SIGTERM ends both processes.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    previous = {
        number: signal.getsignal(number) for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)
    }
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in previous:
        signal.signal(number, lambda *_: None)
    child = os.fork()
    if child:
        _wait(child, woken, wake)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.set_wakeup_fd(-1)
    for number, handler in previous.items():
        signal.signal(number, handler if handler is not None else signal.SIG_DFL)
    os.close(woken)
    os.close(wake)
    os.setsid()


def _wait(child: int, woken: int, wake: int) -> NoReturn:
    """Wait until the child or the run has ended; then kill all descendants, and end with the child's status."""
    status = None
    try:
        _close_all_but(0, woken, wake)
        poll = select.poll()
        poll.register(0, 0)  # poll always reports the end of a pipe
        poll.register(woken, select.POLLIN)
        asked_to_end = False
        while status is None and not asked_to_end:
            for descriptor, _ in poll.poll():
                asked_to_end |= descriptor == 0 or signal.SIGTERM in os.read(woken, 1 << 12)
            status = _reap(child)
        if status is None:
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
        until = time.monotonic() + _GRACE_S  # a sandbox ends with the child, and then cleans up
        while time.monotonic() < until and descendants(os.getpid()):
            _reap(0)
            time.sleep(0.005)
        kill_descendants()
        _end_as(status)
    finally:
        os._exit(1)


def _close_all_but(*kept: int) -> None:
    """Close the child's descriptors: their readers must see the end of the stream."""
    low = 0
    for descriptor in (*sorted(kept), 1 << 16):
        if low < descriptor:  # os.closerange(0, 0) closes everything
            os.closerange(low, descriptor)
        low = descriptor + 1


def _reap(child: int) -> int | None:
    """Reap ended children; the status of `child`, if it is among them."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            found = ended[1] if ended[0] == child else found
    return found


def _end_as(status: int) -> None:
    """End with a wait(2) status."""
    if os.WIFSIGNALED(status):
        with contextlib.suppress(OSError, ValueError):
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1)


def kill_descendants() -> None:
    """Kill descendants until none is left. A subreaper also adopts and kills orphans."""
    for _ in range(_ROUNDS):
        children = descendants(os.getpid())
        if not children:
            return
        for number in (signal.SIGSTOP, signal.SIGKILL):  # a stopped process does not fork
            for pid in children:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.001)


def descendants(root: int) -> list[int]:
    """The process ids of all descendants, from /proc; empty without /proc."""
    return sorted(descendant_stats(root))


def descendant_stats(root: int) -> dict[int, list[bytes]]:
    """For each descendant: the fields of /proc/PID/stat from the third (the state) on; see proc(5)."""
    stats: dict[int, list[bytes]] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                stats[int(name)] = file.read().rpartition(b")")[2].split()
    parents = {pid: int(fields[1]) for pid, fields in stats.items()}
    found = {root}
    while new := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= new
    return {pid: stats[pid] for pid in found - {root}}
