"""The manifest: what it syncs to the disk before a checkpoint is renamed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hone.checkpoint.manifest import write_manifest


def test_every_file_and_every_folder_is_synced_also_one_that_holds_folders_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut a folder has the entries that it had when it was last synced."""
    checkpoint = tmp_path / "step_1"
    (checkpoint / "policy" / "weights").mkdir(parents=True)
    for name in ("state.pt", "policy/weights/0.distcp"):
        (checkpoint / name).write_text(name)
    synced: set[tuple[int, int]] = set()

    def record(descriptor: int) -> None:
        synced.add((os.fstat(descriptor).st_dev, os.fstat(descriptor).st_ino))

    monkeypatch.setattr(os, "fsync", record)
    write_manifest(checkpoint)
    there = {"": checkpoint} | {str(path.relative_to(checkpoint)): path for path in checkpoint.rglob("*")}
    assert {"manifest.json", "policy", "policy/weights"} <= there.keys()
    assert [
        name for name, path in there.items() if (path.stat().st_dev, path.stat().st_ino) not in synced
    ] == []
