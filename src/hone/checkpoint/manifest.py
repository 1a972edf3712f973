"""A checkpoint's manifest: size and CRC-32 of its files, written last and verified when it is read."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

from hone.errors import CheckpointError
from hone.files import sync

MANIFEST = "manifest.json"


def verify(
    path: Path,
    *,
    fallback: Sequence[Path] = (),
    only: str | None = None,
    fix: str | None = None,
    largest: float = math.inf,
) -> None:
    """Compare every file (or `only` one) with the manifest; files above `largest` bytes by size alone. Raises
    CheckpointError for the first that differs."""
    good = f" to go on from {fallback[-1].name}" if fallback else ""
    fix = fix or f"Remove the folder {path}{good}, then run the same command"
    try:
        listed = json.loads((path / MANIFEST).read_text())
        expected = {name: (int(size), int(crc)) for name, (size, crc) in listed.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {MANIFEST} cannot be read. {fix}") from error
    for name in ("config.yaml", "state.pt", *expected) if only is None else (only,):
        if name not in expected:
            raise CheckpointError(f"checkpoint {path} is damaged: {MANIFEST} does not list {name}. {fix}")
        file, (size, crc) = path / name, expected[name]
        if not file.is_file():
            raise CheckpointError(f"checkpoint {path} is damaged: {name} is missing. {fix}")
        if file.stat().st_size != size or (size <= largest and _crc(file) != crc):
            raise CheckpointError(f"checkpoint {path} is damaged: {name} is not what was written. {fix}")


def write_manifest(path: Path) -> None:
    """List all files below a folder, and sync them, the list and all folders to the disk: a file whose folder is not
    synced, or the folder that this one is in, may be lost in a power cut."""
    found = sorted(path.rglob("*"))
    files = [file for file in found if file.is_file()]
    manifest = {str(file.relative_to(path)): [file.stat().st_size, _crc(file)] for file in files}
    (path / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for entry in (path / MANIFEST, *found, path):
        sync(entry)


def _crc(file: Path) -> int:
    value = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            value = zlib.crc32(block, value)
    return value
