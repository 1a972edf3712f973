"""Run training in a child process, and restart the child if it dies.

Ray may end a run: when the raylet of its machine dies, Ray sometimes exits the process that uses it, immediately and
without an exception. Code inside that process cannot prevent this. So the run is a child process, and the command waits
for it in this module, without Ray.

Neither torch nor Ray may be imported before the fork, since a fork copies no threads. This module imports neither.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from hone.config import TrainingConfig
from hone.errors import WorkerLostError
from hone.files import by_step
from hone.subprocesses import end_with_parent

STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FROM_THE_TERMINAL = 0x80
"""`si_code` of a Ctrl-C (SI_KERNEL): the terminal has sent the signal to the child as well."""


def run_in_child(config: TrainingConfig, run: Callable[[bool], int]) -> int:
    """Call `run(recovering)` in a child process and return its exit code.

    An exception of `run` is printed with its traceback and ends the child: this function returns only in the parent. A
    child that ends before `run` returns or raises is replaced, at most `cluster.max_restarts` times without a new
    checkpoint; then WorkerLostError is raised. Signals are passed on, and the child ends with this process.
    """
    recovering, lost, reached = False, 0, -1
    while True:
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, {*STOP, signal.SIGCHLD})
        ours, theirs = socket.socketpair()
        child = os.fork()
        if child == 0:
            ours.close()
            end_with_parent(theirs.fileno())
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
            _end(run, recovering, theirs)
        theirs.close()
        try:
            code, stopped = _wait(child)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        with ours:
            if ours.recv(1) or stopped:
                return code if code >= 0 else 128 - code
        newest = max(by_step(Path(config.checkpointing.checkpoint_dir).glob("step_*")), default=0)
        lost = 1 if newest > reached else lost + 1
        reached, recovering = newest, True
        end = f"ended with exit code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"
        if lost > config.cluster.max_restarts or not config.checkpointing.enabled:
            raise WorkerLostError(
                f"the run's process (pid {child}) {end}, and cluster.max_restarts={config.cluster.max_restarts} "
                "restarts without a new checkpoint are used up; the same command resumes from the last one"
            )
        origin = f"step_{newest}" if newest else "the start"
        print(f"the run's process (pid {child}) {end}", file=sys.stderr)
        print(f"resuming from {origin} in a new process", file=sys.stderr, flush=True)


def _end(run: Callable[[bool], int], recovering: bool, report: socket.socket) -> NoReturn:
    """In the child: call `run`, report that it returned or raised, and exit."""
    code = 1
    try:
        code = run(recovering)
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        report.send(b".")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(child: int) -> tuple[int, bool]:
    """Wait for the child. Returns its exit code (negative: a signal), and whether this process was asked to stop."""
    stopped = False
    while True:
        number, typed = _next_signal()
        if number != signal.SIGCHLD:
            stopped = True
            if not typed:
                os.kill(child, number)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), stopped


def _next_signal() -> tuple[int, bool]:
    """The next signal, and whether a terminal has also sent it to the child."""
    wanted = {*STOP, signal.SIGCHLD}
    if sys.platform == "linux":
        info = signal.sigwaitinfo(wanted)
        return info.si_signo, info.si_code == FROM_THE_TERMINAL
    number = signal.sigwait(wanted)
    return number, number == signal.SIGINT
