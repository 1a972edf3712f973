"""Runs generated programs in isolation: `Sandbox(SandboxLimits(timeout_s=2)).run(source)`.

sandbox.py                         Sandbox, the interface
server.py, process_monitor.py      runs one program at a time and enforces limits of time, memory and output
spawner.py, process.py             forks programs and judges; sets up a forked process
program.py, judge.py               the process of the program, and the process of its tests
remote_link.py, remote_object.py, values.py   calls between those two
jail.py, root_filesystem.py, kernel.py        namespaces, a root with Python only, privileges
seccomp.py, landlock.py            blocked system calls and files
cgroup.py, memory_usage.py         memory of all processes of a program
"""

from __future__ import annotations

from hone.rollout.sandbox.sandbox import LOST, IsolationError, Outcome, Sandbox, SandboxLimits

__all__ = ["LOST", "IsolationError", "Outcome", "Sandbox", "SandboxLimits"]
