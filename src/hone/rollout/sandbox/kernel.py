"""System calls for isolation, through the C library; each raises OSError. Linux."""

from __future__ import annotations

import ctypes
import errno
import os

NEWNS, NEWUTS, NEWIPC = 0x00020000, 0x04000000, 0x08000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
RDONLY, NOSUID, NODEV = 1, 2, 4
BIND, MOVE, REC, PRIVATE = 1 << 12, 1 << 13, 1 << 14, 1 << 18
DETACH = 2
READ_ANYTHING = 1 << 2
"""CAP_DAC_READ_SEARCH: file permissions are ignored for reading."""
PDEATHSIG, DUMPABLE, KEEPCAPS, CHILD_SUBREAPER, NO_NEW_PRIVS = 1, 4, 8, 36, 38
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_MOUNT_SETATTR = 442
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> int:
    """Call a function of the C library. Raises OSError."""
    found = getattr(libc, name)(*arguments)
    if found < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return int(found)


def prctl(option: int, value: int) -> None:
    """See prctl(2)."""
    call("prctl", option, ctypes.c_ulong(value), 0, 0, 0)


def mount(source: str | None, target: str, type_: str | None, flags: int, options: str | None = None) -> None:
    """See mount(2)."""
    texts = [None if text is None else text.encode() for text in (source, target, type_, options)]
    call("mount", texts[0] or b"none", texts[1], texts[2], ctypes.c_ulong(flags), texts[3])


def unmount(target: str) -> None:
    """Unmount as soon as the mount is unused."""
    call("umount2", target.encode(), DETACH)


def change_root() -> None:
    """Make the working directory, which is a mount, the root, and detach the old root."""
    number = _PIVOT_ROOT.get(os.uname().machine, -1)  # -1: ENOSYS
    try:
        call("syscall", number, b".", b".")
        call("umount2", b".", DETACH)
    except OSError:  # the initial root file system cannot be moved
        mount(".", "/", None, MOVE)
        os.chroot(".")
    os.chdir("/")


def make_read_only(path: str) -> None:
    """Make a mount and all mounts below it read-only."""
    attributes = (ctypes.c_uint64 * 4)(RDONLY | NOSUID, 0, 0, 0)
    try:
        call("syscall", _MOUNT_SETATTR, _AT_FDCWD, path.encode(), _AT_RECURSIVE, ctypes.byref(attributes), 32)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        raise OSError(errno.ENOSYS, "mount_setattr: Linux 5.12 or newer is needed") from None


def drop_capabilities(kept: int = 0) -> None:
    """Drop all capabilities outside the mask, permanently, also for programs that this process runs."""
    header, mask = ((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(kept, kept))
    call("capset", ctypes.byref(header), ctypes.byref(mask))
    prctl(NO_NEW_PRIVS, 1)
