"""Isolation of programs from the machine: namespaces, a separate root, another user, limits. Outside Linux there are
limits only.

The spawner calls `enter` once. It creates namespaces without network and without other processes, and with a root that
holds only Python. `new_process_namespace` gives each program a process namespace: when its first process ends, the
kernel kills all others. The program's process calls `drop_privileges`. Without namespaces, Landlock restricts files.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hone.rollout.sandbox import kernel, landlock, root_filesystem, seccomp
from hone.rollout.workers.reaper import kill_descendants

_NAMESPACES = kernel.NEWNS | kernel.NEWUTS | kernel.NEWIPC | kernel.NEWPID | kernel.NEWNET
_FIRST_USER = 1_500_000_000
"""Unused user ids. Each sandbox has its own, so that the limit on processes counts only its processes."""
_MAX_ERROR = 500


@dataclass(frozen=True)
class Isolation:
    """The isolation in force."""

    namespaces: bool = False
    network_off: bool = False
    own_user: bool = False
    files: str = ""
    """`root` (a separate root), `landlock`, or empty."""
    signals: bool = False
    """Whether a program cannot signal outside processes."""
    counted: bool = False
    """Whether the kernel limits the memory of all processes together."""
    problem: str = ""
    """Why there are no namespaces."""

    def permitted(self) -> list[str]:
        """The actions that a program is not prevented from."""
        user = "a user of its own" if self.own_user else "the user of the run"
        found = [] if self.network_off else ["use the network"]
        if not self.files:
            found.append(f"read (and, where {user} may, change) the machine's files")
        if not self.signals:
            found.append("end " + ("its own sandbox" if self.own_user else "any process of the run's user"))
        if not self.namespaces:
            found += [] if self.files else ["see which processes there are"]
            found += [] if self.counted else ["exceed its memory limit between two measurements"]
        return found

    def __str__(self) -> str:
        parts = ["no network" if self.network_off else "NETWORK ALLOWED"]
        if self.namespaces:
            parts.append("own process tree and a root with Python alone (namespaces)")
        else:
            parts.append(f"NO NAMESPACES ({self.problem})")
        if self.files == "landlock":
            parts.append("files of Python alone (Landlock)")
        if self.own_user:
            parts.append("a user of its own")
        if self.counted:
            parts.append("memory counted by the kernel")
        text, can = ", ".join(parts), "; ".join(self.permitted())
        return f"{text}. A program can {can}" if can else text


class Jail:
    """The isolation of one spawner; at most one in a process."""

    def __init__(self, disk_mb: int, namespaces: bool = True) -> None:
        self.directory = ""
        """The working directory of programs, the only one that they may write to."""
        self._disk_mb = disk_mb
        self._wanted = namespaces and sys.platform == "linux"
        self._processes = self._proc = -1
        self._user: int | None = None
        self._filter: bytes | None = None
        self._landlock = False
        self._locked_in = False
        """Only root may enter Python's folder: the sandbox's user keeps a capability to read it."""
        self._needed = root_filesystem.needed()
        self.isolation = Isolation()

    def enter(self, counted: bool) -> None:
        """Create the namespaces, if possible. This returns in a child; the calling process waits for the child and ends
        with it. counted: a control group counts memory."""
        as_root, own = os.geteuid() == 0, _FIRST_USER + os.getpid()  # a user namespace changes them
        if sys.platform == "linux":
            self._proc = os.open("/proc", os.O_RDONLY | os.O_CLOEXEC)  # not reachable later
        problem = try_in_child(self._create_namespaces) if self._wanted else "not requested"
        if not problem:
            self._create_namespaces(_continue_in_child)
            kernel.prctl(kernel.PDEATHSIG, signal.SIGKILL)
        else:  # without PDEATHSIG: the spawner ends the program when its client ends
            self.directory = tempfile.mkdtemp(prefix="hone-sandbox-")
            if sys.platform == "linux":
                kernel.prctl(kernel.CHILD_SUBREAPER, 1)
        sys.path[:] = self._needed.import_path
        self._user = own if as_root and not try_in_child(lambda: os.setresuid(own, own, own)) else None
        code = seccomp.program()
        self._filter = code if code is not None and not try_in_child(lambda: seccomp.forbid(code)) else None
        self.reset_directory()
        self._landlock = bool(problem) and landlock.version() > 0 and not try_in_child(self._restrict)
        confined = self._landlock and self._user is not None and self._filter is not None
        self._locked_in = confined and root_filesystem.is_closed()
        self.isolation = Isolation(
            namespaces=not problem,
            network_off=not problem or self._filter is not None,
            own_user=self._user is not None,
            files="root" if not problem else "landlock" if self._landlock else "",
            signals=not problem or (self._landlock and landlock.bounds_signals()),
            counted=counted,
            problem=problem,
        )

    def _create_namespaces(self, then: Callable[[], None] = lambda: None) -> None:
        if os.geteuid() != 0 or kernel.libc.unshare(_NAMESPACES) != 0:
            user, group = os.geteuid(), os.getegid()
            kernel.call("unshare", _NAMESPACES | kernel.NEWUSER)
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        then()
        self._processes = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self.directory = root_filesystem.work_folder(self._needed)
        root_filesystem.build(self._needed, self.directory)

    def new_process_namespace(self) -> None:
        """Start a process namespace with the next forked process."""
        if self._processes >= 0:
            kernel.call("setns", self._processes, kernel.NEWPID)
            kernel.call("unshare", kernel.NEWPID)

    def new_ipc_namespace(self) -> None:
        """Start an IPC namespace, which ends with this process: shared memory, queues, semaphores."""
        if self._processes >= 0:
            kernel.call("unshare", kernel.NEWIPC)

    def prefer_oom_kill(self) -> None:
        """Make this process and its children the first to be killed when memory runs out."""
        with contextlib.suppress(OSError):  # no /proc, or no permission
            file = os.open("self/oom_score_adj", os.O_WRONLY, dir_fd=self._proc)
            os.write(file, b"1000")
            os.close(file)

    def reset_directory(self) -> None:
        """Empty the working directory for the next program."""
        if self._processes >= 0:
            with contextlib.suppress(OSError):  # not mounted yet
                kernel.unmount(self.directory)
            options = f"size={self._disk_mb}m,mode=1777,nr_inodes=4096"
            kernel.mount("tmpfs", self.directory, "tmpfs", kernel.NOSUID | kernel.NODEV, options)
            return
        shutil.rmtree(self.directory, ignore_errors=True)
        os.makedirs(self.directory, exist_ok=True)
        os.chmod(self.directory, 0o777 if self._user is not None else 0o700)

    def remove_directory(self) -> None:
        """Remove the working directory if there is no mount namespace, with which it would end."""
        if self._processes < 0:
            shutil.rmtree(self.directory, ignore_errors=True)

    def drop_privileges(self, visible: bool) -> None:
        """Drop all privileges of this process and its children. visible: processes of the same user may read its
        memory, to measure it."""
        if self._user is not None:
            if self._locked_in:
                kernel.prctl(kernel.KEEPCAPS, 1)
            os.setgroups([])
            os.setresgid(self._user, self._user, self._user)
            os.setresuid(self._user, self._user, self._user)
        if sys.platform == "linux":
            kernel.drop_capabilities(kernel.READ_ANYTHING if self._locked_in else 0)
            kernel.prctl(kernel.DUMPABLE, visible)
        if self._landlock:
            self._restrict()
        if self._filter is not None:
            seccomp.forbid(self._filter)

    def kill(self, first: int) -> None:
        """Kill the first process of a program, and with it all that the program started. Wait for its end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(first, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # the kernel kills the rest of the namespace first
            os.waitpid(first, 0)

    def kill_leftovers(self) -> None:
        """Kill all remaining processes of programs, if there is no namespace."""
        if self._processes < 0:
            kill_descendants()

    def _restrict(self) -> None:
        present = filter(os.path.exists, root_filesystem.DEVICES)
        devices = [path for path in present if stat.S_ISCHR(os.stat(path).st_mode)]
        landlock.restrict(self._needed.paths, devices, self.directory)


def try_in_child(act: Callable[[], None]) -> str:
    """Try an irreversible action in a child process; its error message, or an empty string."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        problem = "it ended"
        try:
            act()
            problem = ""
        except (OSError, ValueError, AttributeError, StopIteration) as error:
            problem = f"{type(error).__name__}: {error}"
        finally:
            os.write(into, problem.encode(errors="replace")[:_MAX_ERROR] or b"\0")
            os._exit(0)
    os.close(into)
    with open(out, "rb") as file:
        problem = file.read().decode(errors="replace")
    os.waitpid(child, 0)
    return "" if problem == "\0" else problem or "it ended"


def _continue_in_child() -> None:
    """Continue in a child, the first process of the namespace: when it ends, the kernel kills all others."""
    child = os.fork()
    if child == 0:
        return
    os.closerange(3, 256)  # with the channel: the other side must see its end
    status = os.waitpid(child, 0)[1]
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
