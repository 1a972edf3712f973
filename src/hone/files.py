"""Atomic writes, and errors that name their file.

A file is written under a temporary name in its folder and renamed (`os.replace`, atomic on one file system), so a kill
leaves the old file or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
CANNOT_SYNC = (
    *(errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF),
    *(errno.EISDIR, errno.EACCES, errno.EPERM),
)
"""What opening or syncing a folder raises on file systems that do not support it."""


@contextlib.contextmanager
def with_file_name(path: Path) -> Iterator[None]:
    """Put `path` into an OSError that names no file: a failed write (disk full) does not say which file it was."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, and rename it to `path` when the block ends; the folder is made if need be.

    If the block raises, `path` is unchanged and the temporary file is removed. The temporary name is always the same,
    so the next writer overwrites what a kill left: a path has one writer at a time. Nothing is synced to the disk: that
    would cost more than a small model's step. So this is safe against kills, not against power cuts.
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
    """Replace the content of `path`; text is written as UTF-8. `mode`: permissions of the file, less the umask.

    Raises OSError (disk full, no permission); `path` is then unchanged.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    with replacing(path) as temporary, open(temporary, "wb", opener=partial(os.open, mode=mode)) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, as `write_atomically` does. Lone surrogates, which UTF-8 lacks, become "?"."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    write_atomically(path, text.encode("utf-8", "replace") + b"\n")


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if the file is missing, damaged, or holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def sync(path: Path) -> None:
    """Return when a file's content, or a folder's list of files, is on the disk.

    Some file systems (CIFS, FUSE) cannot sync folders; there it does nothing for one. Raises OSError.
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
    """Whether the error, or one that caused it, says that the disk is full.

    DCP, PyTorch's zip writer and safetensors report a failed write in words of their own.
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
        f"disk full{where}: free some space and run the same command again; it goes on from the last complete "
        "checkpoint. checkpointing.checkpoint_dir names the folder"
    )
