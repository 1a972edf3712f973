"""Reading checkpoint files without running what they hold: a run's folder may come from somebody else.

PyTorch's DCP keeps its list of tensors (`.metadata`) as a pickle, and what is no tensor as pickles, too; unpickling
runs whatever code a pickle names. Here the list is made of DCP's own records alone, and everything else of tensors,
numbers, texts and containers. A file that holds anything else raises CheckpointError, and nothing of it has run.
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
NAMES: dict[tuple[str, str], Any] = {
    **{(record.__module__, record.__qualname__): record for record in RECORDS},
    **{
        ("torch", str(t).removeprefix("torch.")): t
        for t in vars(torch).values()
        if isinstance(t, torch.dtype)
    },
    # `_get_layout` is a function, to which a pickle could give other contents.
    ("torch.serialization", "_get_layout"): LAYOUTS.__getitem__,
    **{(module, "PosixPath"): PosixPath for module in ("pathlib", "pathlib._local")},
}
"""All that `.metadata` may name: DCP's records, number formats and layouts, and the path that it was written to."""


class _Unpickler(pickle.Unpickler):
    """An unpickler that knows the names of NAMES, and no others."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in NAMES:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return NAMES[module, name]


class Reader(FileSystemReader):
    """DCP's reader of a folder, with a list of tensors that runs nothing. Raises CheckpointError for one that DCP did
    not write, OSError."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.found = read_list(path / ".metadata")  # now: DCP would log, and pack, what goes wrong

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What the folder holds."""
        self.found.storage_meta = self.found.storage_meta or StorageMeta()
        self.found.storage_meta.load_id = self.load_id
        return self.found


def read_list(file: Path) -> Metadata:
    """What a checkpoint's `.metadata` lists. Raises CheckpointError for one that DCP did not write, OSError."""
    with file.open("rb") as stream:
        try:
            found = _Unpickler(stream).load()
        except Exception as error:  # a pickle that is damaged raises almost anything
            _refuse(file, error)
    if not _is_a_list_of_tensors(found):
        _refuse(file, ValueError("it is no list of tensors"))
    return found


def _is_a_list_of_tensors(found: Any) -> bool:
    """Whether it is what DCP writes, of files in its own folder."""
    return (
        isinstance(found, Metadata)
        and isinstance(found.state_dict_metadata, Mapping)
        and isinstance(found.storage_data, Mapping)
        and isinstance(found.storage_meta, StorageMeta | None)
        and all(isinstance(place, _StorageInfo) for place in found.storage_data.values())
        and all(
            PurePath(place.relative_path).name == place.relative_path for place in found.storage_data.values()
        )
    )


class Planner(DefaultLoadPlanner):
    """DCP's planner, which takes of what is no tensor only numbers, texts and containers, and no such thing for a
    tensor."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Put a thing that is no tensor into the state. Raises CheckpointError for one that would run code."""
        name = read_item.dest_index.fqn
        if torch.is_tensor(self.state_dict[name]):
            raise CheckpointError(f"{name} is a tensor here, and in the checkpoint it is none")
        try:
            found = torch.load(value, weights_only=True)
        except Exception as error:  # whatever a damaged or foreign pickle makes torch raise
            reason = one_line(error)[:200]
            raise CheckpointError(f"{name} in the checkpoint is not what Hone writes: {reason}") from error
        own = io.BytesIO()
        torch.save(found, own)  # DCP unpickles it again, without limits
        own.seek(0)
        super().load_bytes(read_item, own)


def read_state(file: Path) -> dict[str, Any]:
    """A dictionary that `torch.save` wrote: of tensors, numbers, texts and containers. Raises CheckpointError for
    anything else, OSError."""
    try:
        state = torch.load(file, weights_only=True)
    except OSError:
        raise
    except Exception as error:  # whatever a damaged or foreign file makes torch raise
        _refuse(file, error)
    if not isinstance(state, dict):
        _refuse(file, ValueError(f"it holds a {type(state).__name__}"))
    return state


@contextlib.contextmanager
def understood(file: Path) -> Iterator[None]:
    """Raise CheckpointError where what a file holds is taken up and turns out to be something else."""
    try:
        yield
    except (
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
        yaml.YAMLError,
    ) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else one_line(error)[:200]
        raise CheckpointError(
            f"{file} does not hold what this run needs ({reason}): it is another run's, or damaged. Name another "
            "checkpointing.checkpoint_dir, or remove that checkpoint"
        ) from error


def _refuse(file: Path, error: Exception) -> NoReturn:
    raise CheckpointError(
        f"{file} is not a file that Hone wrote ({one_line(error)[:200]}): nothing of it was run. Name a checkpoint "
        "that Hone wrote, or remove this one"
    ) from error


def own_error(error: BaseException) -> BaseException | None:
    """What Hone itself, or Ctrl-C, raised inside DCP, which packs everything into an exception of its own."""
    inner = [cause for cause, _ in error.failures.values()] if isinstance(error, CheckpointException) else []
    return next((cause for cause in inner if isinstance(cause, HoneError | KeyboardInterrupt)), None)
