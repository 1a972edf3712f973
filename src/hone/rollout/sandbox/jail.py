"""What keeps a program away from the machine: namespaces and a root of its own, another user, limits. Linux; elsewhere
limits alone.

`enter` is called once, by the spawner. It makes namespaces: no network, no process but its own, and a root that holds
Python and nothing else. `fresh` gives one program a process namespace, whose end is the end of everything in it.
`drop` takes all privileges from the program's process. Where there are no namespaces, Landlock bounds the files.
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

_APART = kernel.NEWNS | kernel.NEWUTS | kernel.NEWIPC | kernel.NEWPID | kernel.NEWNET
_FIRST_USER = 1_500_000_000
"""Users that nobody is: each sandbox has one, so that limits on processes count its own alone."""
_MAX_WORD = 500


@dataclass(frozen=True)
class Isolation:
    """What is in force, for those who must know."""

    namespaces: bool = False
    network_off: bool = False
    own_user: bool = False
    files: str = ""
    """`root` of its own, `landlock`, or nothing."""
    signals: bool = False
    """Whether a program is kept from signalling others than its own."""
    counted: bool = False
    """Whether the kernel counts the memory of all processes together."""
    problem: str = ""
    """Why there are no namespaces."""

    def open_to(self) -> list[str]:
        """What a program can still do, in words."""
        user = "a user of its own" if self.own_user else "the user of the run"
        found = [] if self.network_off else ["use the network"]
        if not self.files:
            found.append(f"read (and, where {user} may, change) the machine's files")
        if not self.signals:
            found.append("end " + ("its own sandbox" if self.own_user else "any process of the run's user"))
        if not self.namespaces:
            found += [] if self.files else ["see which processes there are"]
            found += [] if self.counted else ["use more memory than asked between two looks"]
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
        text, can = ", ".join(parts), "; ".join(self.open_to())
        return f"{text}. A program can {can}" if can else text


class Jail:
    """The spawner's jail. One in a process."""

    def __init__(self, disk_mb: int, namespaces: bool = True) -> None:
        self.directory = ""
        """Where a program may write: its working directory."""
        self._disk_mb = disk_mb
        self._wanted = namespaces and sys.platform == "linux"
        self._processes = self._proc = -1
        self._user: int | None = None
        self._filter: bytes | None = None
        self._landlock = False
        self._locked_in = False
        """Python lies where root alone may enter: a user of its own is let in, to what Landlock shows."""
        self._needed = root_filesystem.needed()
        self.isolation = Isolation()

    def enter(self, counted: bool) -> None:
        """Make the namespaces, where that can be done; the calling process then waits for the child in which this
        returns, and ends with it. counted: a control group counts memory."""
        as_root, own = (os.geteuid() == 0, _FIRST_USER + os.getpid())  # before the namespace renames us
        if sys.platform == "linux":
            self._proc = os.open("/proc", os.O_RDONLY | os.O_CLOEXEC)  # soon out of sight
        problem = attempt(self._go_apart) if self._wanted else "not asked for"
        if not problem:
            self._go_apart(_continue_in_child)
            kernel.prctl(kernel.PDEATHSIG, signal.SIGKILL)
        else:  # the spawner must live to see the end of whoever wanted it: nobody else would end the program
            self.directory = tempfile.mkdtemp(prefix="hone-sandbox-")
            if sys.platform == "linux":
                kernel.prctl(kernel.CHILD_SUBREAPER, 1)
        sys.path[:] = self._needed.import_path
        self._user = own if as_root and not attempt(lambda: os.setresuid(own, own, own)) else None
        code = seccomp.program()
        self._filter = code if code is not None and not attempt(lambda: seccomp.forbid(code)) else None
        self.clean()
        self._landlock = bool(problem) and landlock.version() > 0 and not attempt(self._restrict)
        self._locked_in = (
            self._landlock
            and self._user is not None
            and self._filter is not None
            and root_filesystem.is_closed()
        )
        self.isolation = Isolation(
            namespaces=not problem,
            network_off=not problem or self._filter is not None,
            own_user=self._user is not None,
            files="root" if not problem else "landlock" if self._landlock else "",
            signals=not problem or (self._landlock and landlock.bounds_signals()),
            counted=counted,
            problem=problem,
        )

    def _go_apart(self, then: Callable[[], None] = lambda: None) -> None:
        if os.geteuid() != 0 or kernel.libc.unshare(_APART) != 0:
            user, group = os.geteuid(), os.getegid()
            kernel.call("unshare", _APART | kernel.NEWUSER)
            for file, line in (
                ("setgroups", "deny"),
                ("uid_map", f"{user} {user} 1"),
                ("gid_map", f"{group} {group} 1"),
            ):
                Path(f"/proc/self/{file}").write_text(line)
        then()
        self._processes = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self.directory = root_filesystem.workplace(self._needed)
        root_filesystem.build(self._needed, self.directory)

    def fresh(self) -> None:
        """The next process that is forked begins a process namespace."""
        if self._processes >= 0:
            kernel.call("setns", self._processes, kernel.NEWPID)
            kernel.call("unshare", kernel.NEWPID)

    def alone(self) -> None:
        """What this process shares with others in memory, queues and semaphores ends with it."""
        if self._processes >= 0:
            kernel.call("unshare", kernel.NEWIPC)

    def first_to_die(self) -> None:
        """Where memory runs out, this process and what it forks go first."""
        with contextlib.suppress(OSError):  # no /proc, or not ours to say
            file = os.open("self/oom_score_adj", os.O_WRONLY, dir_fd=self._proc)
            os.write(file, b"1000")
            os.close(file)

    def clean(self) -> None:
        """An empty folder for the next program, whatever the last one left."""
        if self._processes >= 0:
            with contextlib.suppress(OSError):  # there is none yet
                kernel.unmount(self.directory)
            options = f"size={self._disk_mb}m,mode=1777,nr_inodes=4096"
            kernel.mount("tmpfs", self.directory, "tmpfs", kernel.NOSUID | kernel.NODEV, options)
            return
        shutil.rmtree(self.directory, ignore_errors=True)
        os.makedirs(self.directory, exist_ok=True)
        os.chmod(self.directory, 0o777 if self._user is not None else 0o700)

    def leave(self) -> None:
        """Leave nothing: a folder outside of a namespace would stay."""
        if self._processes < 0:
            shutil.rmtree(self.directory, ignore_errors=True)

    def drop(self, visible: bool) -> None:
        """Take every privilege from this process and all that it will start. visible: whoever has its user may look
        into its memory, to measure it."""
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
        """End a program with all that it started, given its first process, and wait until they are gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(first, signal.SIGKILL)
        # Of a namespace: the kernel kills the rest, and only then lets us wait.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(first, 0)

    def sweep(self) -> None:
        """End what is left of programs that had no namespace."""
        if self._processes < 0:
            kill_descendants()

    def _restrict(self) -> None:
        devices = [
            path
            for path in root_filesystem.DEVICES
            if os.path.exists(path) and stat.S_ISCHR(os.stat(path).st_mode)
        ]
        landlock.restrict(self._needed.paths, devices, self.directory)


def attempt(act: Callable[[], None]) -> str:
    """Try in a child something that cannot be undone: what was the problem, or nothing."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        told = "it ended"
        try:
            act()
            told = ""
        except (OSError, ValueError, AttributeError, StopIteration) as error:
            told = f"{type(error).__name__}: {error}"
        finally:
            os.write(into, told.encode(errors="replace")[:_MAX_WORD] or b"\0")
            os._exit(0)
    os.close(into)
    with open(out, "rb") as file:
        problem = file.read().decode(errors="replace")
    os.waitpid(child, 0)
    return "" if problem == "\0" else problem or "it ended"


def _continue_in_child() -> None:
    """The child is the first process of the namespace: when it ends, the kernel ends every other."""
    child = os.fork()
    if child == 0:
        return
    os.closerange(3, 256)  # the channel among them: its end must be seen
    status = os.waitpid(child, 0)[1]
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
