"""How a command ends: its exit code, and one line for an expected failure."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from hone.errors import HoneError, Interrupted, visible
from hone.files import disk_full_message


def reported(command: Callable[[], int]) -> int:
    """Run a command and print its expected failures; returns the exit code."""
    try:
        return command()
    except Interrupted as stopped:  # requested by the user, so not an error
        sys.stdout.flush()
        print(stopped, file=sys.stderr)
        return stopped.exit_code
    except HoneError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # `hone config sft | head`: the reader has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:
        if (message := disk_full_message(error)) is None:
            raise
        return _fail(message, 1)


def _fail(message: str, code: int) -> int:
    sys.stdout.flush()
    print(f"error: {visible(message)}", file=sys.stderr)
    return code
