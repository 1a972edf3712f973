"""A write that fails, at every place where one can: a clear word, and the earlier checkpoint as it was."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from saving import checkpoints_of, learner_of, save, trained_learner
from tiny import run

from hone.errors import CheckpointError


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
    from hone.errors import CheckpointError
    from saving import checkpoints_of, learner_of, save, trained_learner
    from tiny import run
    import os, shutil

    os.fsync = lambda descriptor: None
    root = Path(sys.argv[1])
    checkpoints, learner, seen = checkpoints_of(root / "run", keep_top_k=1), trained_learner(), set()
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
    helpers = str(Path(__file__).resolve().parents[2] / "helpers")
    code = textwrap.dedent(script).format(tests=helpers)
    path = os.pathsep.join([helpers, *sys.path])
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
