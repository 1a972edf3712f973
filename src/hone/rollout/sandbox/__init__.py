"""Programs that a model wrote, run apart from everything else: `Sandbox(SandboxLimits(timeout_s=2)).run(source)`.

sandbox.py   Sandbox: what the rest of Hone calls       server.py, watch.py  sees one program at a time to its end
spawner.py   forks programs and judges, holds no text   process.py           what a forked process becomes
program.py   the process of the program                 judge.py             the process of its tests
link.py, remote.py, values.py  what passes between those two
jail.py, root.py, kernel.py    namespaces, a root with Python alone, privileges
seccomp.py, landlock.py        system calls and files that are out of reach
cgroup.py, memory.py           what a program's processes hold together
"""

from __future__ import annotations

from hone.rollout.sandbox.sandbox import LOST, Outcome, Sandbox, SandboxLimits, Unsafe

__all__ = ["LOST", "Outcome", "Sandbox", "SandboxLimits", "Unsafe"]
