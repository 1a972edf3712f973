"""Landlock: restricts the files of a program without its own root. Needs no privilege (Linux 5.13).

From Linux 6.12 on it also blocks signals to outside processes. See landlock(7); the numbers are from linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

from hone.rollout.sandbox import kernel

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE, _READ, _LIST, _TRUNCATE, _IOCTL = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL
_TCP, _OUTSIDE = 3, 3
"""TCP bind and connect; abstract sockets and signals to outside processes."""
_SIGNALS_FROM = 6


def version() -> int:
    """The ABI version of the kernel's Landlock; 0 without it."""
    found = kernel.libc.syscall(_CREATE, None, ctypes.c_size_t(0), _VERSION) if hasattr(os, "O_PATH") else 0
    return max(0, int(found))


def bounds_signals() -> bool:
    """Whether signals to outside processes are blocked."""
    return version() >= _SIGNALS_FROM


def restrict(readable: Iterable[str], devices: Iterable[str], writable: str) -> None:
    """Allow this process and its children to read and run files below `readable` and to change files below `writable`.
    Raises OSError."""
    found = version()
    known = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(found, 16)) - 1
    attributes = struct.pack("=QQQ", known, _TCP, _OUTSIDE)[: 8 if found < 4 else 16 if found < 6 else 24]
    rules = kernel.call("syscall", _CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    try:
        for path in readable:
            _allow(rules, path, (_EXECUTE | _READ | _LIST) & known)
        for path in devices:
            _allow(rules, path, (_READ | _WRITE | _IOCTL) & known)
        _allow(rules, writable, known)
        kernel.prctl(kernel.NO_NEW_PRIVS, 1)
        kernel.call("syscall", _RESTRICT, rules, 0)
    finally:
        os.close(rules)


def _allow(rules: int, path: str, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # missing, or not accessible to this user
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= _OF_FILES
        rule = struct.pack("=Qi", access, descriptor)
        kernel.call("syscall", _ADD, rules, _PATH_BENEATH, rule, 0)
    finally:
        os.close(descriptor)
