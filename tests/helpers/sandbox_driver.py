"""Runs programs in one sandbox and prints what became of them: `python sandbox_driver.py` with the job as JSON on its
input. A process of its own, so that tests can run it as another user."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict

from hone.rollout.sandbox import IsolationError, Sandbox, SandboxLimits

if __name__ == "__main__":
    job = json.load(sys.stdin)
    os.environ["A_SECRET"] = "do not tell"
    with Sandbox(SandboxLimits(**job["limits"]), namespaces=job["namespaces"]) as box:
        try:
            found = {"says": box.start(), "user": os.geteuid()}
        except IsolationError as error:
            found = {"problem": str(error)}
        else:
            found["outcomes"] = [asdict(box.run(**program)) for program in job["programs"]]
    print(json.dumps(found))
