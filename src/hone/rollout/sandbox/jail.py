"""What keeps a program away from the machine: namespaces, another user, limits. Linux; elsewhere limits alone.

`enter` is called once, by the server. It makes namespaces of its own: no network, no process but its own, every file
system read-only but for one small folder in memory. `fresh` gives one program a process namespace, whose end is the
end of everything in it. `drop` takes all privileges from the program's process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hone.rollout.sandbox import seccomp
from hone.rollout.sandbox.memory import Meter

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    *(0x00020000, 0x04000000, 0x08000000),
    *(0x10000000, 0x20000000, 0x40000000),
)
_RDONLY, _NOSUID, _NODEV, _BIND, _REC, _PRIVATE, _DETACH = (1, 2, 4, 1 << 12, 1 << 14, 1 << 18, 2)
_AT_FDCWD, _AT_RECURSIVE, _MOUNT_SETATTR = -100, 0x8000, 442
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38
_FIRST_USER = 1_500_000_000
"""Users that nobody is: each server has one, so that limits on processes count its own alone."""


@dataclass(frozen=True)
class Isolation:
    """What is in force, for those who must know."""

    namespaces: bool
    network_off: bool
    own_user: bool

    def __str__(self) -> str:
        parts = ["no network" if self.network_off else "NETWORK ALLOWED"]
        parts.append(
            "own process tree and read-only files (namespaces)" if self.namespaces else "NO NAMESPACES"
        )
        if self.own_user:
            parts.append("a user of its own")
        return ", ".join(parts)


class Jail:
    """The server's jail. One in a process."""

    def __init__(self, disk_mb: int, namespaces: bool = True) -> None:
        self.directory = ""
        """Where a program may write: its working directory."""
        self._disk_mb = disk_mb
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._wanted = namespaces and sys.platform == "linux"
        self._processes = -1
        self._user: int | None = None
        self._seccomp = False
        self.isolation = Isolation(False, False, False)
        self.meter = Meter()

    def enter(self) -> None:
        """Make the namespaces, where that can be done; the calling process then waits for the child in which this
        returns, and ends with it."""
        root, own = (os.geteuid() == 0, _FIRST_USER + os.getpid())  # before the namespace renames us
        namespaces = self._wanted and self._unshare()
        if namespaces:
            _continue_in_child()
            self.directory = _free_folder()
            self._call("mount", b"none", b"/", None, _REC | _PRIVATE, None)
            if root:
                self._open_python()
            self.meter = Meter()  # while /proc can be seen
            self._processes = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
            self._seal()
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        else:  # the server must live to see the end of whoever wanted it: nobody else would end the program
            self.directory = tempfile.mkdtemp(prefix="hone-sandbox-")
            if sys.platform == "linux":
                self._libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._user = own if root and self._may_change_user(own) else None
        self._seccomp = seccomp.available() and self._filter_works()
        self.isolation = Isolation(namespaces, namespaces or self._seccomp, self._user is not None)
        self.clean()

    def fresh(self) -> None:
        """The next process that is forked begins a process namespace."""
        if self._processes >= 0:
            self._call("setns", self._processes, _NEWPID)
            self._call("unshare", _NEWPID)

    def clean(self) -> None:
        """An empty folder for the next program, whatever the last one left."""
        if self._processes >= 0:
            self._libc.umount2(self.directory.encode(), _DETACH)
            options = f"size={self._disk_mb}m,mode=1777,nr_inodes=4096".encode()
            self._call("mount", b"tmpfs", self.directory.encode(), b"tmpfs", _NOSUID | _NODEV, options)
            return
        shutil.rmtree(self.directory, ignore_errors=True)
        os.makedirs(self.directory, exist_ok=True)
        os.chmod(self.directory, 0o777 if self._user is not None else 0o700)

    def leave(self) -> None:
        """Leave nothing: a folder outside of a namespace would stay."""
        if self._processes < 0:
            shutil.rmtree(self.directory, ignore_errors=True)

    def drop(self) -> None:
        """Take every privilege from this process and all that it will start."""
        if self._user is not None:
            os.setgroups([])
            os.setresgid(self._user, self._user, self._user)
            os.setresuid(self._user, self._user, self._user)
        if sys.platform == "linux":
            header, nothing = ((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
            self._call("capset", ctypes.byref(header), ctypes.byref(nothing))
            self._call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if self._seccomp:
            seccomp.forbid(self._libc)

    def kill(self, first: int) -> None:
        """End a program with all that it started, given its first process, and wait until they are gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(
                first, signal.SIGKILL
            )  # of a namespace: the kernel kills the rest, and only then lets us wait
        with contextlib.suppress(ChildProcessError):
            os.waitpid(first, 0)
        if self._processes < 0:
            _kill_descendants()

    def _unshare(self) -> bool:
        apart = _NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET
        if os.geteuid() == 0 and self._libc.unshare(apart) == 0:
            return True
        user, group = os.geteuid(), os.getegid()
        if self._libc.unshare(apart | _NEWUSER) != 0:
            return False
        for file, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            Path(f"/proc/self/{file}").write_text(text)
        return True

    def _open_python(self) -> None:
        """Where Python lies in a folder that only root may enter, cover the folder and leave Python alone in it."""
        needed = {
            os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, *sys.path) if os.path.isdir(path)
        }
        closed = {path: top for path in sorted(needed) if (top := _closed_to_others(path)) is not None}
        kept = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in closed}
        os.chdir("/")
        for top in sorted(set(closed.values())):
            self._call("mount", b"tmpfs", top.encode(), b"tmpfs", _NOSUID | _NODEV, b"mode=755,size=1m")
        for path, descriptor in kept.items():
            os.makedirs(path, exist_ok=True)
            if not os.listdir(path):  # not below one that is there already
                self._call(
                    "mount", f"/proc/self/fd/{descriptor}".encode(), path.encode(), None, _BIND | _REC, None
                )
            os.close(descriptor)

    def _seal(self) -> None:
        """Every file system read-only, and /proc (other processes, their environments) out of sight."""
        attributes = (ctypes.c_uint64 * 4)(_RDONLY, 0, 0, 0)
        self._call("syscall", _MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, ctypes.byref(attributes), 32)
        self._call("mount", b"tmpfs", b"/proc", b"tmpfs", _RDONLY, b"size=4k")

    def _filter_works(self) -> bool:
        return _succeeds(lambda: seccomp.forbid(self._libc))

    def _may_change_user(self, user: int) -> bool:
        return _succeeds(lambda: os.setresuid(user, user, user))

    def _call(self, name: str, *arguments: object) -> None:
        if getattr(self._libc, name)(*arguments) < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{name}: {os.strerror(number)}")


def limit(memory_mb: int, processes: int, disk_mb: int, open_files: int, cpu_s: float) -> None:
    """Limits of this process and of each that it starts."""
    seconds = int(cpu_s) + 2
    bounds = {
        "RLIMIT_CORE": 0,
        "RLIMIT_AS": memory_mb << 20,
        "RLIMIT_FSIZE": disk_mb << 20,
        "RLIMIT_NOFILE": open_files,
        "RLIMIT_NPROC": processes,
        "RLIMIT_CPU": seconds,
    }
    for name, value in bounds.items():
        kind = getattr(resource, name, None)
        if kind is None:
            continue
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with contextlib.suppress(OSError, ValueError):  # macOS refuses RLIMIT_AS
            resource.setrlimit(kind, (value, value))


def _closed_to_others(path: str) -> str | None:
    """The topmost folder on the way to `path` that others may not enter."""
    for folder in (*reversed(Path(path).parents), Path(path)):
        if not folder.stat().st_mode & 0o001:
            return str(folder)
    return None


def _succeeds(act: Callable[[], None]) -> bool:
    """Whether something that cannot be undone works here: a child tries it."""
    child = os.fork()
    if child == 0:
        try:
            act()
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def _free_folder() -> str:
    """A folder to cover with the program's own, which nothing needs that Python has."""
    needed = [os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, *sys.path) if path]
    for folder in ("/dev/shm", "/mnt", "/media", "/srv", "/tmp"):
        if os.path.isdir(folder) and not any(f"{path}/".startswith(f"{folder}/") for path in needed):
            return folder
    raise OSError("there is no folder to work in: one of /dev/shm, /mnt, /media, /srv must exist")


def _continue_in_child() -> None:
    """The child is the first process of the namespace: when it ends, the kernel ends every other."""
    child = os.fork()
    if child == 0:
        return
    os.closerange(3, 256)  # the channel among them: its end must be seen
    status = os.waitpid(child, 0)[1]
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _kill_descendants() -> None:
    """Without a namespace: kill what there is until nothing is left. Orphans come to us, their subreaper."""
    for _ in range(1000):
        children = _descendants(os.getpid())
        if not children:
            return
        for pid in children:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGSTOP)  # so that none forks while others are killed
        for pid in children:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _descendants(root: int) -> list[int]:
    parents: dict[int, int] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                parents[int(name)] = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
    found = {root}
    while new := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= new
    return sorted(found - {root})
