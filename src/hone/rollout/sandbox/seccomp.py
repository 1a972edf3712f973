"""Blocked system calls, on x86-64 and 64-bit ARM: sockets, calls that could undo the isolation, and memory that no
limit counts or that outlives a program (System V and POSIX queues, shared memory, memfd).

This is the second layer of isolation after the namespaces; without namespaces, it alone blocks the network. See
seccomp(2) and linux/filter.h; the numbers are from the kernel's system call tables.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

from hone.rollout.sandbox import kernel

_X86 = {
    "socket": 41, "ptrace": 101, "syslog": 103, "pivot_root": 155, "chroot": 161, "acct": 163, "mount": 165,
    "umount2": 166, "swapon": 167, "reboot": 169, "init_module": 175, "delete_module": 176, "quotactl": 179,
    "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272, "perf_event_open": 298,
    "fanotify_init": 300, "name_to_handle_at": 303, "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310,
    "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323,
    "shmget": 29, "shmat": 30, "shmctl": 31, "shmdt": 67, "semget": 64, "semop": 65, "semctl": 66, "semtimedop": 220,
    "msgget": 68, "msgsnd": 69, "msgrcv": 70, "msgctl": 71, "mq_open": 240, "mq_unlink": 241, "mq_timedsend": 242,
    "mq_timedreceive": 243, "mq_notify": 244, "mq_getsetattr": 245, "memfd_create": 319,
}  # fmt: skip
_ARM = {
    "socket": 198, "ptrace": 117, "syslog": 116, "pivot_root": 41, "chroot": 51, "acct": 89, "mount": 40,
    "umount2": 39, "swapon": 224, "reboot": 142, "init_module": 105, "delete_module": 106, "quotactl": 60,
    "kexec_load": 104, "add_key": 217, "request_key": 218, "keyctl": 219, "unshare": 97, "perf_event_open": 241,
    "fanotify_init": 262, "name_to_handle_at": 264, "open_by_handle_at": 265, "setns": 268, "process_vm_readv": 270,
    "process_vm_writev": 271, "kcmp": 272, "finit_module": 273, "kexec_file_load": 294, "bpf": 280, "userfaultfd": 282,
    "shmget": 194, "shmctl": 195, "shmat": 196, "shmdt": 197, "semget": 190, "semctl": 191, "semtimedop": 192,
    "semop": 193, "msgget": 186, "msgctl": 187, "msgrcv": 188, "msgsnd": 189, "mq_open": 180, "mq_unlink": 181,
    "mq_timedsend": 182, "mq_timedreceive": 183, "mq_notify": 184, "mq_getsetattr": 185, "memfd_create": 279,
}  # fmt: skip
_BOTH = {"io_uring_setup": 425, "open_tree": 428, "move_mount": 429, "fsopen": 430, "pidfd_getfd": 438,
         "mount_setattr": 442, "memfd_secret": 447}  # fmt: skip
_MACHINES = {"x86_64": (0xC000003E, {**_X86, **_BOTH}, 56), "aarch64": (0xC00000B7, {**_ARM, **_BOTH}, 220)}
"""Machine -> its AUDIT_ARCH value, blocked calls, and the number of `clone`."""
_CLONE3 = 435
_NAMESPACE_FLAGS = 0x7E020000
_X32 = 0x40000000

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN = (0x20, 0x15, 0x35, 0x45, 0x06)
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _MACHINE, _FIRST_ARGUMENT = 0, 4, 16
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def program() -> bytes | None:
    """The filter as BPF code; None on other machines."""
    if platform.system() != "Linux" or platform.machine() not in _MACHINES:
        return None
    return _filter(*_MACHINES[platform.machine()])


def forbid(code: bytes) -> None:
    """Apply the filter to this process and its children, permanently. Raises OSError."""
    buffer = ctypes.create_string_buffer(code, len(code))
    filter = _Program(len(code) // 8, ctypes.addressof(buffer))
    kernel.prctl(kernel.NO_NEW_PRIVS, 1)
    kernel.call("prctl", _PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(filter), 0, 0)


def _filter(machine: int, refused: dict[str, int], clone: int) -> bytes:
    """One instruction is (code, jump if true, jump if false, operand)."""
    refuse = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
    steps = [(_LOAD, 0, 0, _MACHINE), (_JUMP_EQUAL, 1, 0, machine), (_RETURN, 0, 0, _KILL)]
    steps += [(_LOAD, 0, 0, _NUMBER)]
    if platform.machine() == "x86_64":
        steps += [(_JUMP_AT_LEAST, 0, 1, _X32), refuse]
    for number in sorted(refused.values()):
        steps += [(_JUMP_EQUAL, 0, 1, number), refuse]
    # A filter cannot read the flags of clone3, which are in memory: on ENOSYS the C library uses clone instead.
    steps += [(_JUMP_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    steps += [(_JUMP_EQUAL, 0, 3, clone), (_LOAD, 0, 0, _FIRST_ARGUMENT)]
    steps += [(_JUMP_ANY_BIT, 0, 1, _NAMESPACE_FLAGS), refuse, (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
