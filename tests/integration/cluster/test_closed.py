"""Ray that Hone starts is for one run alone: who may reach it, what it shows, and what a failed start leaves behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from processes import ENVIRONMENT

pytest.importorskip("ray")

from hone.config import load
from hone.engine.distributed.worker import EngineWorker
from hone.engine.ray import local_cluster
from hone.engine.ray.worker_group import PASSED_ON, SECRET, WorkerGroup
from hone.errors import ClusterError
from hone.planning.parallel_dims import ParallelDims

PLANTED = "hf_" + "planted" * 5
ASK = """
import sys
from ray._raylet import GcsClient
print(len(GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None, timeout=10)))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[psutil.Process]]]:
    """A run on two ranks while it trains: its folder, and its processes."""
    place = tmp_path_factory.mktemp("closed")
    argv = ("sft", "policy.model_name=hone/tiny", "cluster.cpu_workers_per_node=2", "sft.max_num_steps=2000")
    argv += ("sft.val_period=0", "sft.max_num_epochs=null", "checkpointing.checkpoint_dir=run")
    out = place / "out"
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment = {**kept, **ENVIRONMENT, "HF_TOKEN": PLANTED}
    with out.open("w") as file:
        started = subprocess.Popen(
            [sys.executable, "-m", "hone", *argv], cwd=place, env=environment, stdout=file, stderr=file
        )
    deadline = time.monotonic() + 300
    while "step 2/" not in out.read_text():
        assert started.poll() is None, out.read_text()
        assert time.monotonic() < deadline, out.read_text()
        time.sleep(0.2)
    me = psutil.Process(started.pid)
    found = [me, *me.children(recursive=True)]
    yield place / "run", found
    started.terminate()
    assert started.wait(120) == 130, out.read_text()
    _, alive = psutil.wait_procs(found, timeout=30)
    assert not alive


def of_name(processes: list[psutil.Process], name: str) -> psutil.Process:
    return next(process for process in processes if name in process.name())


@pytest.mark.slow
def test_nothing_listens_where_others_could_reach_it(run: tuple[Path, list[psutil.Process]]) -> None:
    listening = {
        (process.name(), c.laddr.ip.removeprefix("::ffff:"))
        for process in run[1]
        for c in process.net_connections(kind="inet")
        if c.status == psutil.CONN_LISTEN
    }
    names = {name for name, _ in listening}
    assert {"gcs_server", "raylet"} <= names
    assert sum("Worker" in name for name in names) == 1  # both ranks have the same name
    assert {address for _, address in listening} == {"127.0.0.1"}


@pytest.mark.slow
def test_who_has_no_token_is_refused(run: tuple[Path, list[psutil.Process]]) -> None:
    server = of_name(run[1], "gcs_server")
    (port,) = {c.laddr.port for c in server.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN}
    own = server.environ()["RAY_AUTH_TOKEN"]
    assert len(own) >= 32
    for token, answers in ((own, True), ("0" * len(own), False), (None, False)):
        auth = (
            {"RAY_AUTH_MODE": "disabled"}
            if token is None
            else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        )
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | auth
        asked = subprocess.run(
            [sys.executable, "-c", ASK, f"127.0.0.1:{port}"], env=environment, capture_output=True, text=True
        )
        assert (asked.returncode == 0) == answers, asked
        assert answers or "AuthenticationError" in asked.stderr
    assert all(own not in " ".join(process.cmdline()) for process in run[1])


@pytest.mark.slow
def test_a_token_of_the_hub_is_in_no_log(run: tuple[Path, list[psutil.Process]]) -> None:
    command = " ".join(of_name(run[1], "gcs_server").cmdline())
    session = re.search(r"(/\S*?/session_[^/\s]*)/", command)
    assert session is not None, command
    files = [file for root in (Path(session[1]), run[0]) for file in root.rglob("*") if file.is_file()]
    assert any(file.name.startswith("raylet") for file in files)
    assert [file for file in files if PLANTED.encode() in file.read_bytes()] == []


def test_what_a_rank_is_started_with_holds_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SECRET, *PASSED_ON):
        monkeypatch.setenv(name, f"value of {name}")
    assert "HF_TOKEN" in SECRET
    config = load("sft", None, [f"checkpointing.checkpoint_dir={tmp_path}"]).config
    started_with = WorkerGroup(config, ParallelDims(1, 2, shard=2), threads=1, own=True)._environment()
    assert {name: f"value of {name}" for name in PASSED_ON}.items() <= started_with.items()
    assert not set(SECRET) & set(started_with)
    monkeypatch.setenv("HF_ENDPOINT", "https://me:password@mirror")
    workers = WorkerGroup(config, ParallelDims(1, 2, shard=2), threads=1, own=True)
    assert "HF_ENDPOINT" not in workers._environment()
    assert workers._secret() == {"HF_TOKEN": "value of HF_TOKEN", "HF_ENDPOINT": "https://me:password@mirror"}
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.chdir(Path.cwd())  # the worker changes the directory: this changes it back
    EngineWorker(0, str(tmp_path), None).identify(None, {"HF_TOKEN": "told"})
    assert os.environ["HF_TOKEN"] == "told"


def test_a_start_that_fails_is_tried_again_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ray gives its raylet 30 s and then forgets what it has started."""
    left: list[subprocess.Popen[bytes]] = []

    def slow(**options: object) -> None:
        left.append(subprocess.Popen(["sleep", "600"]))
        raise RuntimeError("The current node timed out during startup.\nThis can happen")

    monkeypatch.setattr(local_cluster.ray, "init", slow)
    before = dict(os.environ)
    bystander = subprocess.Popen(["sleep", "600"])
    with pytest.raises(
        ClusterError, match=r"did not start on this machine in 3 attempts: The current node timed out"
    ):
        local_cluster.start(1)
    assert len(left) == 3
    assert not any(psutil.pid_exists(process.pid) for process in left)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()
    assert capfd.readouterr().err.count("trying again") == 2
    assert dict(os.environ) == before
