"""Programs that a model wrote, run apart from everything else.

sandbox.py   Sandbox: what the rest of Hone calls      server.py   the process that forks one program at a time
jail.py      namespaces, privileges, limits            seccomp.py  which system calls a program may not make
program.py   the program's own process, up to its end

with Sandbox(SandboxLimits(timeout_s=2)) as sandbox:
    outcome = sandbox.run("def f(x): return x + 1", tests=["assert f(1) == 2"])
    outcome.passed     # [True]
"""

from __future__ import annotations

from hone.rollout.sandbox.sandbox import Outcome, Sandbox, SandboxLimits, Unsafe

__all__ = ["Outcome", "Sandbox", "SandboxLimits", "Unsafe"]
