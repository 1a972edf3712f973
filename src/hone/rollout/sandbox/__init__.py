"""Programs that a model wrote, run apart from everything else: `Sandbox(SandboxLimits(timeout_s=2)).run(source)`.

sandbox.py   Sandbox: what the rest of Hone calls      server.py   the process that forks one program at a time
jail.py      namespaces, privileges, limits            seccomp.py  which system calls a program may not make
program.py   the program's own process, up to its end  memory.py   what a program's processes hold together
"""

from __future__ import annotations

from hone.rollout.sandbox.sandbox import LOST, Outcome, Sandbox, SandboxLimits, Unsafe

__all__ = ["LOST", "Outcome", "Sandbox", "SandboxLimits", "Unsafe"]
