"""Transfer weights between processes as files in a shared folder; on one node, in shared memory.

    FOLDER/v7/manifest.json        version, checksum, names by bucket, tied names, the version that holds the base
    FOLDER/v7/0.safetensors ...    buckets of tensors

A version is written to a temporary folder, which is then renamed, so that it is complete or not there. With adapters, a
version whose base weights are unchanged holds only the adapters and names the version of the base, which is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hone.engine.local.weight_sync import LearnerWeights, LoadsWeights
from hone.errors import WeightSyncError
from hone.files import read_json_object, write_json
from hone.model.weights import checksum, tied_parameters

BUCKET_BYTES = 1 << 28
SHARED_MEMORY = Path("/dev/shm")


def weights_folder(run_folder: Path, *, one_node: bool, size: int) -> Path:
    """An empty folder for the weights of a run: in shared memory if all processes are on one node and two versions of
    `size` bytes fit, otherwise in the run's folder.

    A restarted run gets the same folder, so that nothing is left behind. Raises PermissionError if it belongs to
    another user.
    """
    run_folder = run_folder.resolve()
    name = hashlib.sha256(str(run_folder).encode()).hexdigest()[:16]
    shared, own = SHARED_MEMORY / f"hone-{name}", run_folder / "weights"
    for old in (shared, own):
        if old.is_dir() and old.lstat().st_uid == os.getuid():
            shutil.rmtree(old)
    in_memory = one_node and SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free > 2 * size
    folder = shared if in_memory else own
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    return folder


def versions_in(folder: Path) -> list[int]:
    """The published versions in ascending order."""
    return sorted(int(path.name[1:]) for path in folder.glob("v*") if path.name[1:].isdigit())


def version_folder(folder: Path, version: int) -> Path:
    """The folder of a version. Raises WeightSyncError if it is not published."""
    path = folder / f"v{version}"
    if not path.is_dir():
        raise WeightSyncError(version, max(versions_in(folder), default=None), f"{path} is not published")
    return path


@contextlib.contextmanager
def publishing(folder: Path, version: int, *, keep: Collection[int] = ()) -> Iterator[Path]:
    """Yield a folder to write a version into, which is renamed when the block ends. Other versions are then removed,
    except those in `keep`."""
    temporary, final = folder / f".writing_v{version}", folder / f"v{version}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    shutil.rmtree(final, ignore_errors=True)
    os.replace(temporary, final)
    for old in {*versions_in(folder)} - {version, *keep}:
        shutil.rmtree(folder / f"v{old}", ignore_errors=True)


@dataclass(frozen=True)
class Publication:
    """One published version. Iterating yields (name, CPU tensor) in the learner's order."""

    folder: Path
    version: int
    base: int
    """The version with the base weights: this one, or an earlier one if this one holds only the trained weights."""
    checksum: int
    buckets: list[list[str]] = field(repr=False)
    """Names of the tensors in each file."""
    ties: list[list[str]]
    """Groups of names of one parameter. The first is sent; a receiver that does not tie weights needs all names."""

    @classmethod
    def open(cls, folder: Path, version: int) -> Publication:
        """Read a version's manifest. Raises WeightSyncError if the version or its manifest is missing."""
        path = version_folder(folder, version)
        manifest = read_json_object(path / "manifest.json")
        if manifest.get("version") != version:
            raise WeightSyncError(version, version, f"{path} has no manifest of this version")
        return cls(folder=path, **manifest)

    def verify(self) -> None:
        """Raise WeightSyncError if the files do not hold the published weights."""
        if checksum(self) != self.checksum:
            raise WeightSyncError(
                self.version, self.version, f"{self.folder} holds other weights than published"
            )

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for number, names in enumerate(self.buckets):
            file = self.folder / f"{number}.safetensors"
            try:
                with safe_open(file, framework="pt") as stored:
                    for name in names:
                        yield name, stored.get_tensor(name)
            except (OSError, SafetensorError) as error:
                raise WeightSyncError(self.version, self.version, f"{file} is incomplete: {error}") from error


class FilePublisher:
    """The learner's side. On a mesh every rank calls `publish`, and the first rank writes."""

    def __init__(
        self,
        weights: Callable[[], LearnerWeights],
        folder: Path,
        *,
        dtype: torch.dtype | None = None,
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        self.weights, self.folder, self.dtype, self.bucket_bytes = weights, folder, dtype, bucket_bytes
        self._base: tuple[int, int] | None = None
        """The version with the base weights, and the checksum of this rank's part of them."""

    async def publish(self, version: int) -> None:
        """Write the learner's weights as `version`, floating-point tensors in `dtype`, and remove older versions."""
        weights = self.weights()
        base = weights.base_checksum()
        same = self._base is not None and self._base[1] == base
        partial = weights.has_base and weights.all_ranks(same)
        if not partial or self._base is None:
            self._base = version, base
        stream = weights.trained() if partial else iter(weights)
        if not weights.ranks.is_first:
            for _ in stream:  # a collective
                pass
            return
        with publishing(self.folder, version, keep={self._base[0]}) as path:
            buckets: list[list[str]] = []
            total = checksum(self._written(stream, path, buckets))
            ties = tied_parameters(weights.model)
            manifest = Publication(path, version, self._base[0], total, buckets, ties)
            write_json(path / "manifest.json", {k: v for k, v in asdict(manifest).items() if k != "folder"})

    def _written(
        self, stream: Iterable[tuple[str, Tensor]], folder: Path, buckets: list[list[str]]
    ) -> Iterator[tuple[str, Tensor]]:
        """Write the weights to files of about `bucket_bytes`, and yield them as they are written."""
        bucket: dict[str, Tensor] = {}

        def write() -> None:
            save_file(bucket, folder / f"{len(buckets)}.safetensors")
            buckets.append(list(bucket))
            bucket.clear()

        for name, tensor in stream:
            floating = tensor.is_floating_point()
            tensor = tensor.detach().to("cpu", self.dtype if floating else None).contiguous()
            bucket[name] = tensor
            yield name, tensor
            if sum(one.nbytes for one in bucket.values()) >= self.bucket_bytes:
                write()
        if bucket:
            write()


class FileReceiver:
    """The generator's side, in any process that sees the folder."""

    def __init__(self, generator: LoadsWeights, folder: Path) -> None:
        self.generator, self.folder = generator, folder
        self._base: int | None = None

    async def receive(self, version: int) -> None:
        """Verify a published version and load it. If the verification fails, the generator is unchanged."""
        publication = Publication.open(self.folder, version)
        partial = publication.base != version
        parts = [publication]
        if partial and publication.base != self._base:
            parts.insert(0, Publication.open(self.folder, publication.base))
        for part in parts:
            part.verify()
        for part in parts:
            self.generator.load_weights(part.version, part, partial=part is publication and partial)
        self._base = publication.base
