"""Atomic writes, and errors that name their file.

A file is written under a temporary name in its folder and renamed (`os.replace`, atomic on one file system), so a kill
leaves the old file or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
CANNOT_SYNC = {
    getattr(errno, name) for name in "EINVAL ENOTSUP EOPNOTSUPP ENOSYS EBADF EISDIR EACCES EPERM".split()
}
"""Error codes of opening or syncing a folder on file systems that do not support it."""
STEP = re.compile(r"step_(\d+)")
"""The name of a checkpoint's folder."""


@contextlib.contextmanager
def with_file_name(path: Path) -> Iterator[None]:
    """Add `path` to an OSError of the block that names no file: the error of a failed write (disk full) names none."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to `path` when the block ends. The folder is created if needed.

    If the block raises, `path` is unchanged and the temporary file is removed. The temporary name is always the
    same, so the next writer overwrites the file that a kill left; a path may have one writer at a time. Nothing is
    synced to the disk, which would take longer than a small model's step. So it protects from kills, not power cuts.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with with_file_name(path):
            yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: str | bytes, *, mode: int = 0o666) -> None:
    """Replace the content of `path`; text is written as UTF-8. `mode`: the file's permissions, before the umask.

    Raises OSError (disk full, no permission) and then leaves `path` unchanged.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    with replacing(path) as temporary, open(temporary, "wb", opener=partial(os.open, mode=mode)) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON with `write_atomically`. Lone surrogates, which UTF-8 lacks, become "?"."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    write_atomically(path, text.encode("utf-8", "replace") + b"\n")


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if the file is missing, damaged, or holds another value."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def by_step(paths: Iterable[Path]) -> dict[int, Path]:
    """Those of the paths that are named `step_N` or `step_N.jsonl`, by N, in order."""
    found = ((STEP.fullmatch(path.name.removesuffix(".jsonl")), path) for path in paths)
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def last_lines(log: Path, count: int = 5) -> str:
    """The last lines of a log file, to be added to a message; empty if there are none."""
    try:
        lines = log.read_text(errors="replace").strip().splitlines()[-count:]
    except OSError:
        return ""
    return "".join([f"\nlast lines of {log}:", *(f"\n  {line}" for line in lines)]) if lines else ""


def sync(path: Path) -> None:
    """Return when a file's content, or a folder's list of files, is on the disk. Raises OSError.

    On file systems that cannot sync folders (CIFS, FUSE), it does nothing for a folder.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in CANNOT_SYNC or not path.is_dir():
            raise


def is_disk_full(error: BaseException | None) -> bool:
    """Whether the error, or one that caused it, means that the disk is full.

    DCP, PyTorch's zip writer and safetensors raise other errors for a failed write, which are recognised by their text.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            return True
        if any(words in str(error) for words in ("No space left", "unexpected pos", "code: 28")):
            return True
        error = error.__cause__ or error.__context__
    return False


def disk_full_message(error: OSError) -> str | None:
    """The message for the user if the disk is full; None for another error."""
    if error.errno not in NO_SPACE:
        return None
    where = f" while writing {error.filename}" if error.filename else ""
    return (
        f"disk full{where}: free some space and run the same command again; it resumes from the last complete "
        "checkpoint. checkpointing.checkpoint_dir names the folder"
    )
