"""Checkpoints of a run: whole or absent, checked when read, pruned by the metric, safe on a full disk."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_learner, make_model, make_samples, make_tokenizer, run, sft_config

from hone.algorithms import sft
from hone.config.schema import CheckpointingConfig
from hone.engine.checkpoint import Checkpoints, flat_metric
from hone.engine.learner import LocalLearner
from hone.errors import CheckpointError

ADAMW = {"name": "torch.optim.AdamW", "kwargs": {"lr": 1e-3}}


def learner_of(seed: int = 0) -> LocalLearner:
    return make_learner(make_model(seed=seed), sft_config(optimizer=ADAMW).policy)


def trained_learner() -> LocalLearner:
    learner = learner_of()
    run(sft.step(learner, make_samples(3)))
    return learner


def checkpoints_of(folder: Path, **settings: Any) -> Checkpoints:
    return Checkpoints(CheckpointingConfig(checkpoint_dir=str(folder), **settings))


def save(checkpoints: Checkpoints, step: int, learner: LocalLearner | None = None, **metrics: float) -> Path:
    return run(
        checkpoints.save(
            step,
            {"policy": learner} if learner is not None else {},
            tokenizer=make_tokenizer(),
            state={"cursor": step, "rng": torch.get_rng_state()},
            metrics=metrics,
            config_yaml="policy: {}\n",
        )
    )


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
    for leftover in (".writing_step_2", ".removing_step_0"):
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
    assert (tmp_path / ".writing_step_2" / "manifest.json").is_file()
    assert checkpoints.steps() == [1]
    assert run(checkpoints_of(tmp_path).load(1, {"policy": learner_of()}))["cursor"] == 1
    save(checkpoints, 3)
    assert not (tmp_path / ".writing_step_2").exists()


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
    assert checkpoints.best() == 2


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
    assert checkpoints.best() == 2
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


def fail(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "where", ["torch.save", "json.dumps", "os.replace", "os.fsync", "pathlib.Path.mkdir"]
)
def test_a_full_disk_says_so_and_the_last_good_one_stays(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = checkpoints_of(tmp_path, keep_top_k=1)
    learner = learner_of()
    save(checkpoints, 1, learner)
    with monkeypatch.context() as patch:
        patch.setattr(where, fail)
        with pytest.raises(CheckpointError) as caught:
            save(checkpoints, 2, learner)
    message = str(caught.value)
    assert "step_2: the disk is full" in message
    assert f"the last good one is {tmp_path / 'step_1'}" in message
    assert "Free some space" in message
    assert checkpoints.steps() == [1]
    assert run(checkpoints.load(1, {"policy": learner_of()}))["cursor"] == 1
    save(checkpoints, 2, learner)  # and with space again it goes on
    assert checkpoints.steps()[-1] == 2


def test_a_read_only_folder_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="no earlier one exists"):
        save(checkpoints_of(tmp_path / "file" / "run"), 1)


FULL_DISK = """
    import sys, json
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from test_checkpoint import CheckpointError, checkpoints_of, learner_of, run, save
    from tiny import make_samples
    from hone.algorithms import sft
    import os, shutil

    os.fsync = lambda descriptor: None
    root = Path(sys.argv[1])
    checkpoints, learner, seen = checkpoints_of(root / "run", keep_top_k=1), learner_of(), set()
    run(sft.step(learner, make_samples(2)))
    size = sum(f.stat().st_size for f in save(checkpoints, 1, learner).rglob("*") if f.is_file())
    # Leave ever less space, so that every file in turn is the one that does not fit.
    for left in range(size + 65536, 4096, -8192):
        ballast = root / "ballast"
        ballast.unlink(missing_ok=True)
        free = os.statvfs(root).f_bavail * os.statvfs(root).f_frsize
        ballast.write_bytes(bytes(max(0, free - left)))
        try:
            save(checkpoints, 2, learner)
            shutil.rmtree(root / "run" / "step_2")
            if not (root / "run" / "step_1").exists():
                ballast.unlink(); save(checkpoints, 1, learner)
        except CheckpointError as error:
            seen.add(str(error).split(": ", 1)[1])
        assert checkpoints.steps() == [1], checkpoints.steps()
        assert not list((root / "run").glob(".writing*"))
    ballast.unlink()
    run(checkpoints.load(1, {{"policy": learner_of()}}))
    print(json.dumps(sorted(seen)))
"""


def run_script(
    script: str, *arguments: str, prefix: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    code = textwrap.dedent(script).format(tests=str(Path(__file__).parent))
    path = os.pathsep.join([str(Path(__file__).parent.parent), str(Path(__file__).parent), *sys.path])
    return subprocess.run(
        [*prefix, sys.executable, "-W", "ignore", "-c", code, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """A small tmpfs of its own: every file in turn is the one for which there is no space."""
    mount = f"mount -t tmpfs -o size=3m none {tmp_path}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    shell = f'{mount} && exec "$@"'
    result = run_script(FULL_DISK, str(tmp_path), prefix=("unshare", "-rm", "sh", "-c", shell, "sh"))
    assert result.returncode == 0, result.stderr[-3000:]
    messages = json.loads(result.stdout.splitlines()[-1])
    assert messages
    assert all(message.startswith("the disk is full") for message in messages), messages


def test_a_limit_on_file_size(tmp_path: Path) -> None:
    """A real write that fails half-way through a file."""
    resource = pytest.importorskip("resource")
    checkpoints, learner = checkpoints_of(tmp_path), trained_learner()
    path = save(checkpoints, 1, learner)
    biggest = max(file.stat().st_size for file in path.rglob("*"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (biggest // 2, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"cannot write checkpoint.*the last good one is"):
            save(checkpoints, 2, learner)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in tmp_path.iterdir()] == ["step_1"]
    assert run(checkpoints.load(1, {"policy": learner_of()}))["cursor"] == 1
