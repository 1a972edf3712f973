"""Reading checkpoint files from an untrusted source without running code.

PyTorch's DCP stores its list of tensors (`.metadata`), and values that are not tensors, as pickles; unpickling runs any
code that a pickle names. Here the list may hold DCP's own records, and everything else tensors, numbers, strings and
containers. Any other file raises CheckpointError, and none of it is run.
"""

from __future__ import annotations

import contextlib
import io
import pickle
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path, PosixPath, PurePath
from typing import Any, NoReturn

import torch
import yaml
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    _MEM_FORMAT_ENCODING,
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import ReadItem

from hone.errors import CheckpointError, HoneError
from hone.model.load_errors import one_line

RECORDS = (
    *(Metadata, MetadataIndex, StorageMeta, TensorProperties, TensorStorageMetadata, BytesStorageMetadata),
    *(ChunkStorageMetadata, _MEM_FORMAT_ENCODING, _StorageInfo, torch.Size, OrderedDict),
)
LAYOUTS = {str(layout): layout for layout in vars(torch).values() if isinstance(layout, torch.layout)}
ALLOWED_GLOBALS: dict[tuple[str, str], Any] = {
    **{(record.__module__, record.__qualname__): record for record in RECORDS},
    **{
        ("torch", str(t).removeprefix("torch.")): t
        for t in vars(torch).values()
        if isinstance(t, torch.dtype)
    },
    # Not the function itself, which takes any argument.
    ("torch.serialization", "_get_layout"): LAYOUTS.__getitem__,
    **{(module, "PosixPath"): PosixPath for module in ("pathlib", "pathlib._local")},
}
"""What `.metadata` may name: DCP's records, dtypes and layouts, and the path that it was written to."""


class _Unpickler(pickle.Unpickler):
    """An unpickler that resolves only ALLOWED_GLOBALS."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED_GLOBALS:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return ALLOWED_GLOBALS[module, name]


class Reader(FileSystemReader):
    """DCP's reader of a folder, with a safe list of tensors. Raises CheckpointError for one that DCP did not write,
    OSError."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.found = read_list(path / ".metadata")  # here, since DCP would log and wrap an error

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The list of tensors."""
        self.found.storage_meta = self.found.storage_meta or StorageMeta()
        self.found.storage_meta.load_id = self.load_id
        return self.found


def read_list(file: Path) -> Metadata:
    """The contents of a checkpoint's `.metadata`. Raises CheckpointError for one that DCP did not write, OSError."""
    with file.open("rb") as stream:
        try:
            found = _Unpickler(stream).load()
        except Exception as error:  # a pickle that is damaged raises almost anything
            _refuse(file, error)
    if not _is_a_list_of_tensors(found):
        _refuse(file, ValueError("it is not a list of tensors"))
    return found


def _is_a_list_of_tensors(found: Any) -> bool:
    """Whether it is what DCP writes, with all files in its own folder."""
    return (
        isinstance(found, Metadata)
        and isinstance(found.state_dict_metadata, Mapping)
        and isinstance(found.storage_data, Mapping)
        and isinstance(found.storage_meta, StorageMeta | None)
        and all(
            isinstance(info, _StorageInfo) and PurePath(info.relative_path).name == info.relative_path
            for info in found.storage_data.values()
        )
    )


class Planner(DefaultLoadPlanner):
    """DCP's planner, which reads values that are not tensors only if they are numbers, strings and containers, and
    never in place of a tensor."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Put a value that is not a tensor into the state. Raises CheckpointError for one that would run code."""
        name = read_item.dest_index.fqn
        if torch.is_tensor(self.state_dict[name]):
            raise CheckpointError(f"{name} is a tensor in this run, but not in the checkpoint")
        try:
            found = torch.load(value, weights_only=True)
        except Exception as error:  # a damaged pickle makes torch raise almost anything
            reason = one_line(error)[:200]
            raise CheckpointError(f"{name} in the checkpoint was not written by Hone: {reason}") from error
        own = io.BytesIO()
        torch.save(found, own)  # DCP unpickles the value again, without limits
        own.seek(0)
        super().load_bytes(read_item, own)


def read_state(file: Path) -> dict[str, Any]:
    """A dictionary of tensors, numbers, strings and containers that `torch.save` wrote. Raises CheckpointError for
    anything else, OSError."""
    try:
        state = torch.load(file, weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged file makes torch raise almost anything
        _refuse(file, error)
    if not isinstance(state, dict):
        _refuse(file, ValueError(f"it holds a {type(state).__name__}"))
    return state


UNFIT = (LookupError, TypeError, ValueError, AttributeError, RuntimeError, yaml.YAMLError)
"""What code raises that reads values of another type or structure than it expects."""


@contextlib.contextmanager
def as_checkpoint_errors(file: Path) -> Iterator[None]:
    """Raise CheckpointError where the block cannot restore what the file holds."""
    try:
        yield
    except UNFIT as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else one_line(error)[:200]
        raise CheckpointError(
            f"{file} does not hold what this run needs ({reason}): it is another run's, or damaged. Name another "
            "checkpointing.checkpoint_dir, or remove that checkpoint"
        ) from error


def _refuse(file: Path, error: Exception) -> NoReturn:
    raise CheckpointError(
        f"{file} was not written by Hone ({one_line(error)[:200]}): none of its code was run. Name a checkpoint "
        "that Hone wrote, or remove this one"
    ) from error


def own_error(error: BaseException) -> BaseException | None:
    """The HoneError or KeyboardInterrupt inside DCP's exception, if there is one."""
    inner = [cause for cause, _ in error.failures.values()] if isinstance(error, CheckpointException) else []
    return next((cause for cause in inner if isinstance(cause, HoneError | KeyboardInterrupt)), None)
