"""A run's process and folder: one run at a time in a folder, and Ctrl-C that stops it at once."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import tempfile
import threading
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from hone.config import TrainingConfig
from hone.config.paths import check_local
from hone.errors import CheckpointError, ConfigError
from hone.files import is_disk_full
from hone.tracking import RunFolder

DYING_S = 3.0
"""Seconds that a killed run may take to release its folder, since its memory is freed first."""


def run_exclusively(config: TrainingConfig, main: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """Run a loop while holding a lock on the run's folder, and return its result.

    Before anything is loaded it raises ConfigError for a folder that cannot be written, CheckpointError for one in use.
    """
    with contextlib.closing(main), claimed(config):
        return run_async(main)


def run_async(main: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """`asyncio.run` that Ctrl-C stops at once.

    asyncio cancels the task at its next await, which a loop in one process may never reach; it does not do so if SIGINT
    has another handler than Python's default.
    """
    previous = signal.getsignal(signal.SIGINT)
    ours = previous is signal.default_int_handler and can_handle_signals()
    if ours:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        with _held_back(signal.SIGINT):  # half an event loop cannot be closed
            loop = asyncio.new_event_loop()
        with _outer_loop_set_aside():
            try:
                return loop.run_until_complete(main)
            finally:
                _close(loop)
    finally:
        if ours:
            signal.signal(signal.SIGINT, previous)


def can_handle_signals() -> bool:
    """Whether this thread may install signal handlers."""
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def _outer_loop_set_aside() -> Iterator[None]:
    """Suspend the event loop of a notebook, inside which asyncio lets no second one run. In a thread of its own the run
    would not receive Ctrl-C."""
    outer = asyncio._get_running_loop()
    if outer is None:
        yield
        return
    task = asyncio.current_task(outer)
    if task is not None:
        asyncio.tasks._leave_task(outer, task)
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(outer)
        if task is not None:
            asyncio.tasks._enter_task(outer, task)


@contextlib.contextmanager
def _held_back(number: signal.Signals) -> Iterator[None]:
    """Defer the signal until the block exits."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _close(loop: asyncio.AbstractEventLoop) -> None:
    """As `asyncio.run` does: cancel the remaining tasks and let them clean up."""
    try:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


@contextlib.contextmanager
def claimed(config: TrainingConfig) -> Iterator[None]:
    """Lock the run's folder: two processes that train into it would destroy each other's checkpoints. The lock ends
    with the process."""
    for path, key in written_folders(config):
        check_writable(path, key)
    with lock_folder(Path(config.checkpointing.checkpoint_dir), "checkpointing.checkpoint_dir"):
        yield


def written_folders(config: TrainingConfig) -> list[tuple[Path, str]]:
    """The folders that a run writes to, each with the setting that names it."""
    folder = RunFolder(config.checkpointing.checkpoint_dir, config.logger.log_dir)
    logs = "logger.log_dir" if config.logger.log_dir else "checkpointing.checkpoint_dir"
    return [(folder.logs, logs), (folder.path, "checkpointing.checkpoint_dir")]


@contextlib.contextmanager
def lock_folder(path: Path, key: str) -> Iterator[None]:
    """Lock a folder, which the setting `key` names. Raises CheckpointError if another process holds it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _lock(descriptor, path, key)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path, key: str) -> None:
    """Raise CheckpointError for a folder that another process still holds after DYING_S."""
    deadline = time.monotonic() + DYING_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            raise CheckpointError(
                f"another run is writing to {key}={path}: wait for it to end, or name another folder"
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS):  # a file system without locks
                raise
        return


def check_writable(path: Path, key: str) -> None:
    """Create a folder and a file in it. Raises ConfigError, which names the key, if that fails."""
    check_local(path, key)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        if is_disk_full(error):
            raise  # the command line has a message for a full disk
        reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror or str(error)
        raise ConfigError(f"{key}={path} cannot be written to: {reason}. Name a folder that can") from error


def check_could_write(path: Path, key: str) -> None:
    """`check_writable`, removing the folders that it created."""
    new = [one for one in (path, *path.parents) if not one.exists()]
    try:
        check_writable(path, key)
    finally:
        for one in new:  # the innermost first
            if one.is_dir():
                one.rmdir()
