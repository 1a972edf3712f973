"""For the child processes of a run: their limits, and exceptions as replies. Imports the standard library only."""

from __future__ import annotations

import contextlib
import sys
import traceback
from typing import Any

from hone.rollout.workers.framing import REPLY_BYTES

MAX_MESSAGE = 500
"""Characters of an exception's message."""
_MAX_TRACEBACK = 8000


class Unusable(Exception):
    """What a setting names is not a reward function, an environment or a tool; the message says why."""


def set_limits(memory_limit_mb: int | None) -> None:
    """Disable core dumps, limit the address space, and make this process the kernel's first choice when memory runs
    out."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        # /proc may be closed.
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
        if memory_limit_mb is not None:
            size = memory_limit_mb * 1024 * 1024
            resource.setrlimit(resource.RLIMIT_AS, (size, size))


def exception_report(error: BaseException, file: str | None = None) -> dict[str, Any]:
    """The exception as a reply: {"raised": message and line, "type", "traceback"}.

    The line is the deepest one in `file` (where the user's function is), else the deepest one outside Hone.
    """
    frames = error.__traceback__
    while frames and frames.tb_next and _is_internal(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    stack = list(traceback.extract_tb(frames))
    own = [frame for frame in stack if frame.filename == file]
    own = own or [frame for frame in stack if not _is_internal(frame.filename)]
    where = "".join(f" ({frame.filename}:{frame.lineno})" for frame in own[-1:])
    message = "".join(traceback.format_exception_only(type(error), error)).strip()
    whole = "".join(traceback.format_exception(type(error), error, frames))
    return {
        "raised": message[:MAX_MESSAGE] + where,
        "type": type(error).__name__,
        "traceback": whole[-_MAX_TRACEBACK:],
    }


def _is_internal(file: str) -> bool:
    return "/hone/rollout/" in file and "/rewards/functions/" not in file


REPLY_TOO_LONG = {
    "raised": f"what it returned and reported is longer than {REPLY_BYTES:,} bytes",
    "type": "OverflowError",
    "traceback": "",
}
"""The reply in place of one that is too long for the parent to read."""
