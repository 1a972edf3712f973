"""Checkpoints of a run: whole or absent, checked when read, pruned by the metric, safe on a full disk."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from saving import checkpoints_of, learner_of, save, trained_learner
from tiny import run

from hone.config.metric_names import flat_metric
from hone.errors import CheckpointError


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    learner = trained_learner()
    path = save(checkpoints_of(tmp_path), 4, learner, val_loss=1.5)
    assert path == tmp_path / "step_4"
    other, checkpoints = learner_of(seed=1), checkpoints_of(tmp_path)
    state = run(checkpoints.load(4, {"policy": other}))
    assert state["cursor"] == 4
    expected = dict(learner.weights())
    assert all(torch.equal(tensor, expected[name]) for name, tensor in other.weights())
    assert checkpoints.metrics(4) == {"val_loss": 1.5}


def test_the_layout_is_what_converters_expect(tmp_path: Path) -> None:
    path = save(checkpoints_of(tmp_path), 1, trained_learner())
    for name in (
        "config.yaml",
        "training_info.json",
        "manifest.json",
        "state.pt",
        "policy/weights/.metadata",
        "policy/optimizer/.metadata",
        "policy/optimizer/schedule.pt",
        "policy/tokenizer/tokenizer.json",
        "policy/model/config.json",
    ):
        assert (path / name).is_file(), name
    assert list((path / "policy" / "weights").glob("*.distcp"))


def test_what_is_half_written_is_not_a_checkpoint_and_is_swept_away(tmp_path: Path) -> None:
    checkpoints = checkpoints_of(tmp_path)
    save(checkpoints, 1)
    for leftover in (".writing_step_2_0a", ".removing_step_0"):
        (tmp_path / leftover / "policy").mkdir(parents=True)
        (tmp_path / leftover / "policy" / "part").write_text("half")
    (tmp_path / "step_x").mkdir()
    (tmp_path / "rollouts").mkdir()
    assert checkpoints.steps() == [1]
    save(checkpoints, 3)
    assert checkpoints.steps() == [1, 3]
    assert {p.name for p in tmp_path.iterdir()} == {"step_1", "step_3", "step_x", "rollouts"}


def test_no_folder_is_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoints_of(tmp_path / "not there").steps() == []


def test_a_kill_before_the_rename_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    """The process is gone when all is written but the name: step 2 is not there, step 1 loads."""
    checkpoints = checkpoints_of(tmp_path)
    save(checkpoints, 1, learner_of())
    child = os.fork()
    if child == 0:
        os.replace = lambda *_: os._exit(9)  # type: ignore[assignment]
        save(checkpoints, 2, learner_of())
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    (left,) = tmp_path.glob(".writing_step_2_*")
    assert (left / "manifest.json").is_file()
    assert checkpoints.steps() == [1]
    assert run(checkpoints_of(tmp_path).load(1, {"policy": learner_of()}))["cursor"] == 1
    save(checkpoints, 3)
    assert not left.exists()


def damage_cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def damage_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two_steps")
    learner = trained_learner()
    save(checkpoints_of(folder), 1, learner)
    save(checkpoints_of(folder), 2, learner)
    return folder


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("state.pt", damage_cut),
        ("*.distcp", damage_bit),
        ("*.distcp", Path.unlink),
        ("policy/weights/.metadata", damage_bit),
        ("policy/optimizer/schedule.pt", Path.unlink),
        ("training_info.json", damage_bit),
    ],
)
def test_damage_is_named_and_the_way_out_too(name: str, damage: Any, two_steps: Path, tmp_path: Path) -> None:
    shutil.copytree(two_steps, tmp_path, dirs_exist_ok=True)
    checkpoints, path = checkpoints_of(tmp_path), tmp_path / "step_2"
    file = next((path / "policy" / "weights").glob(name)) if "*" in name else path / name
    damage(file)
    with pytest.raises(CheckpointError) as caught:
        run(checkpoints.load(2, {"policy": learner_of()}))
    message = str(caught.value)
    assert str(file.relative_to(path)) in message
    assert f"Remove the folder {path} to go on from step_1" in message
    assert run(checkpoints.load(1, {"policy": learner_of()}))["cursor"] == 1


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"state.pt": 3}', b"\xff\xfe"])
def test_a_damaged_manifest_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = save(checkpoints_of(tmp_path), 1)
    if content is None:
        (path / "manifest.json").unlink()
    else:
        (path / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"step_1 is damaged: manifest\.json"):
        run(checkpoints_of(tmp_path).load(1, {}))


def test_a_damaged_training_info_ranks_last(tmp_path: Path) -> None:
    checkpoints = checkpoints_of(tmp_path, metric_name="val:loss")
    save(checkpoints, 1, val_loss=1.0)
    save(checkpoints, 2, val_loss=2.0)
    (tmp_path / "step_1" / "training_info.json").write_text("[]")


# val_loss by step: 1: 3.0, 2: 1.0, 3: 2.0, 4: 1.0, 5: 5.0
LOSSES = [3.0, 1.0, 2.0, 1.0, 5.0]


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"keep_top_k": 2}, [2, 4, 5]),  # the two best and, always, the newest
        ({"keep_top_k": 1}, [4, 5]),  # of equals the later one
        ({"keep_top_k": 2, "higher_is_better": True}, [1, 5]),
        ({"keep_top_k": 0}, [5]),
        ({"keep_top_k": None}, [1, 2, 3, 4, 5]),
        ({"keep_top_k": 2, "metric_name": None}, [4, 5]),  # without a metric the newest
        ({"keep_top_k": 2, "metric_name": "val:unknown"}, [4, 5]),
    ],
)
def test_the_best_are_kept_and_the_newest_always(
    settings: dict[str, Any], kept: list[int], tmp_path: Path
) -> None:
    checkpoints = checkpoints_of(tmp_path, **{"metric_name": "val:val_loss", **settings})
    for step, loss in enumerate(LOSSES, start=1):
        save(checkpoints, step, val_loss=loss)
    assert checkpoints.steps() == kept


def test_a_metric_that_is_not_a_number_is_never_the_best(tmp_path: Path) -> None:
    checkpoints = checkpoints_of(tmp_path, metric_name="val:val_loss", keep_top_k=1)
    for step, loss in enumerate([float("nan"), 2.0, float("nan"), 3.0], start=1):
        save(checkpoints, step, val_loss=loss)
    assert checkpoints.steps() == [2, 4]


def test_a_step_saved_again_replaces_the_first(tmp_path: Path) -> None:
    checkpoints = checkpoints_of(tmp_path)
    save(checkpoints, 1, val_loss=1.0)
    save(checkpoints, 1, val_loss=2.0)
    assert checkpoints.metrics(1) == {"val_loss": 2.0}
    assert [p.name for p in tmp_path.iterdir()] == ["step_1"]


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("val:val_loss", "val_loss"),
        ("val:loss", "val_loss"),
        ("val:accuracy", "val_accuracy"),
        ("train:loss", "train_loss"),
        ("train:reward", "reward"),
        ("val_loss", "val_loss"),
    ],
)
def test_metric_names_of_upstream(name: str, column: str) -> None:
    assert flat_metric(name) == column


@pytest.mark.parametrize(
    ("number", "of_folders", "works"),
    [
        (errno.EINVAL, True, True),
        (errno.ENOTSUP, True, True),
        (errno.EACCES, True, True),
        (errno.EIO, True, False),  # the disk, not the file system's ways
        (errno.EINVAL, False, False),
    ],
)
def test_a_file_system_that_syncs_no_folders_holds_checkpoints(
    number: int, of_folders: bool, works: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == of_folders:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    checkpoints = checkpoints_of(tmp_path)
    if works:
        save(checkpoints, 1)
        assert run(checkpoints.load(1, {}))["cursor"] == 1
    else:
        with pytest.raises(CheckpointError, match=re.escape(os.strerror(number))):
            save(checkpoints, 1)
    assert [path.name for path in tmp_path.iterdir()] == (["step_1"] if works else [])
