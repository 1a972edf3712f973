"""A checkpoint of somebody else's: what is hidden in it is not run, and one line says so."""

from __future__ import annotations

import io
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from saving import checkpoints_of, learner_of, save, trained_learner
from tiny import make_model, make_tokenizer, run
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, MetadataIndex

from hone.checkpoint.manifest import write_manifest
from hone.errors import CheckpointError, ModelError
from hone.model.loading import load_model


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("foreign")
    save(checkpoints_of(folder), 1, trained_learner())
    return folder


def whole_list(part: str) -> Callable[[Path, Path], None]:
    """`.metadata` is the trap itself."""
    return lambda step, sprung: (
        (step / "policy" / part / ".metadata").write_bytes(pickle.dumps(Trap(sprung))) and None
    )


def in_the_list(step: Path, sprung: Path) -> None:
    """`.metadata` is as DCP writes it, but for one field."""
    file = step / "policy" / "weights" / ".metadata"
    metadata = pickle.loads(file.read_bytes())
    metadata.planner_data = Trap(sprung)
    file.write_bytes(pickle.dumps(metadata))


def as_bytes(part: str, name: str) -> Callable[[Path, Path], None]:
    """The list says that `name` is no tensor: DCP unpickles what stands there."""

    def plant(step: Path, sprung: Path) -> None:
        folder = step / "policy" / part
        metadata = pickle.loads((folder / ".metadata").read_bytes())
        content = io.BytesIO()
        torch.save(Trap(sprung), content)
        (folder / "planted.distcp").write_bytes(content.getvalue())
        index = next(i for i in metadata.storage_data if i.fqn == name)
        place = metadata.storage_data.pop(index)
        place.relative_path, place.offset, place.length = "planted.distcp", 0, len(content.getvalue())
        metadata.storage_data[MetadataIndex(name)] = place
        metadata.state_dict_metadata[name] = BytesStorageMetadata()
        (folder / ".metadata").write_bytes(pickle.dumps(metadata))

    return plant


def as_file(name: str) -> Callable[[Path, Path], None]:
    return lambda step, sprung: torch.save({"cursor": Trap(sprung)}, step / name)


WEIGHT = "model.layers.0.mlp.down_proj.weight"
TRAPS: dict[str, Callable[[Path, Path], None]] = {
    "weights' list": whole_list("weights"),
    "optimizer's list": whole_list("optimizer"),
    "field of the list": in_the_list,
    "weight": as_bytes("weights", WEIGHT),
    "optimizer's number": as_bytes("optimizer", f"param_groups.{WEIGHT}.lr"),
    "schedule": as_file("policy/optimizer/schedule.pt"),
    "state": as_file("state.pt"),
}


@pytest.mark.parametrize("kind", TRAPS)
def test_nothing_hidden_in_a_checkpoint_runs(kind: str, saved: Path, tmp_path: Path) -> None:
    folder, sprung = tmp_path / "run", tmp_path / "sprung"
    shutil.copytree(saved, folder)
    step = folder / "step_1"
    TRAPS[kind](step, sprung)
    (step / "manifest.json").unlink()
    write_manifest(step)
    with pytest.raises(CheckpointError) as caught:
        run(checkpoints_of(folder).load(1, {"policy": learner_of()}))
    assert not sprung.exists()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert str(step) in str(caught.value) or WEIGHT in str(caught.value)


def test_the_trap_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").is_dir()


@pytest.mark.parametrize(
    "content", [[1], {"cursor": 1}, {"optimizer": None}, {"updates": 1, "param_groups": None}]
)
def test_the_state_of_something_else_is_named(content: Any, saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    step = tmp_path / "step_1"
    torch.save(content, step / "policy" / "optimizer" / "schedule.pt")
    (step / "manifest.json").unlink()
    write_manifest(step)
    with pytest.raises(CheckpointError, match="optimizer"):
        run(checkpoints_of(tmp_path).load(1, {"policy": learner_of()}))


def test_a_list_may_not_name_files_elsewhere(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    step = tmp_path / "step_1"
    file = step / "policy" / "weights" / ".metadata"
    metadata = pickle.loads(file.read_bytes())
    next(iter(metadata.storage_data.values())).relative_path = "../optimizer/__0_0.distcp"
    file.write_bytes(pickle.dumps(metadata))
    (step / "manifest.json").unlink()
    write_manifest(step)
    with pytest.raises(CheckpointError, match="not a list of tensors"):
        run(checkpoints_of(tmp_path).load(1, {"policy": learner_of()}))


def test_pickled_weights_of_a_model_run_nothing(tmp_path: Path) -> None:
    """`pytorch_model.bin`: with tensors alone it is a model like any other; else one line."""
    model, folder = make_model(), tmp_path / "model"
    model.config.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    torch.testing.assert_close(load_model(str(folder)).state_dict(), model.state_dict())
    torch.save({**model.state_dict(), "extra": Trap(tmp_path / "sprung")}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin|pickle") as caught:
        load_model(str(folder))
    assert not (tmp_path / "sprung").exists()
    assert "\n" not in str(caught.value)
