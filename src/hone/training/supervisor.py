"""A run in a process of its own, which is started again when it ends without saying so.

A run on a Ray cluster may be ended by Ray: when the raylet of its machine dies, Ray at times exits the process that
uses it, at once and without a word, whatever that process is doing. Nothing inside it can help. So the command itself
only waits, and knows nothing of Ray; what it does is this module.

Nothing of torch or Ray may be imported before (a fork copies no threads), and nothing is imported here.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from hone.config import TrainingConfig
from hone.errors import WorkerLostError
from hone.subprocesses import end_with_parent

STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FROM_THE_TERMINAL = 0x80
"""`si_code` of a Ctrl-C (SI_KERNEL), which the terminal has sent to the run's process as well."""


def run_in_child(config: TrainingConfig, run: Callable[[bool], int]) -> int:
    """`run(recovering)` in a child process, and its exit code. The child ends there, whatever `run` raises (which is
    printed, with its traceback): this function returns once, in the process that called it.

    A child that ends without returning or raising is replaced, up to `cluster.max_restarts` times without a new
    checkpoint; then WorkerLostError. Signals are passed on, and a child ends with this process.
    """
    recovering, lost, reached = False, 0, -1
    while True:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {*STOP, signal.SIGCHLD})
        report_read, said_write = os.pipe()
        alive_read, alive_write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(report_read)
            os.close(alive_write)
            end_with_parent(alive_read)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            _end(run, recovering, said_write)
        os.close(said_write)
        os.close(alive_read)
        try:
            code, stopped = _wait(child)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(alive_write)
        with os.fdopen(report_read, "rb") as report:
            if report.read() or stopped:
                return code if code >= 0 else 128 - code
        newest = newest_step(Path(config.checkpointing.checkpoint_dir))
        lost = 1 if newest > reached else lost + 1
        reached, recovering = newest, True
        how = (
            f"was ended with exit code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"
        )
        if lost > config.cluster.max_restarts or not config.checkpointing.enabled:
            raise WorkerLostError(
                f"the run's process (pid {child}) {how}, and cluster.max_restarts={config.cluster.max_restarts} "
                "restarts without a new checkpoint are used up; the same command goes on from the last one"
            )
        origin = f"step_{newest}" if newest else "the start"
        print(
            f"the run's process (pid {child}) {how}\ngoing on from {origin} with a new one",
            file=sys.stderr,
            flush=True,
        )


def _end(run: Callable[[bool], int], recovering: bool, report: int) -> NoReturn:
    """Run in the child, say that it ended by itself, and end it."""
    code = 1
    try:
        code = run(recovering)
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        os.write(report, b".")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(child: int) -> tuple[int, bool]:
    """The child's exit code (negative: a signal), once it has ended, and whether it was asked to."""
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
    """The next signal, and whether a terminal has sent it to the child, too."""
    wanted = {*STOP, signal.SIGCHLD}
    if sys.platform == "linux":
        info = signal.sigwaitinfo(wanted)
        return info.si_signo, info.si_code == FROM_THE_TERMINAL
    number = signal.sigwait(wanted)
    return number, number == signal.SIGINT


def newest_step(root: Path) -> int:
    """The number of the newest checkpoint below a run's folder; 0 without one."""
    matches = (re.fullmatch(r"step_(\d+)", path.name) for path in root.glob("step_*"))
    return max((int(match[1]) for match in matches if match), default=0)
