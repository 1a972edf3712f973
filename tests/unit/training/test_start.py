"""What a command does before anything heavy is imported."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hone.cli import main
from hone.config import load
from hone.training import startup


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No offline mode and no proxy; what a test sets is taken back."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("urllib.request.getproxies", dict)


def test_the_first_line_names_model_data_and_folder(capsys: pytest.CaptureFixture[str]) -> None:
    startup.announce("sft", load("sft", None, ["checkpointing.checkpoint_dir=out"]))
    assert capsys.readouterr().out == "sft: hone/tiny on hone/word-problems, into out\n"
    startup.announce("distill", load("distill", None, ["checkpointing.checkpoint_dir=out"]))
    assert (
        capsys.readouterr().out == "distill: hone/tiny from hone/tiny-sft on hone/word-problems, into out\n"
    )
    startup.announce("eval", load("eval", None, []))
    assert capsys.readouterr().out == "eval: hone/tiny-sft on hone/word-problems\n"


def test_a_hub_that_does_not_answer_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "reachable", lambda: False)
    startup.enable_offline_if_hub_unreachable(load("grpo", None, ["policy.model_name=Qwen/Qwen3-0.6B"]))
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_a_teacher_on_the_hub_is_asked_for_like_a_student(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "reachable", lambda: False)
    startup.enable_offline_if_hub_unreachable(load("distill", None, ["teacher.model_name=Qwen/Qwen3-0.6B"]))
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_a_hub_that_answers_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "reachable", lambda: True)
    startup.enable_offline_if_hub_unreachable(load("grpo", None, ["policy.model_name=Qwen/Qwen3-0.6B"]))
    assert "HF_HUB_OFFLINE" not in os.environ


def test_a_run_of_local_things_asks_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nobody() -> bool:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(startup, "reachable", nobody)
    for kind in ("sft", "grpo", "eval"):
        startup.enable_offline_if_hub_unreachable(load(kind, None, []))
    local = [f"policy.model_name={tmp_path}", "data.train.dataset_name=rows.jsonl"]
    startup.enable_offline_if_hub_unreachable(load("sft", None, local))


def test_what_the_user_set_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "reachable", lambda: False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    startup.enable_offline_if_hub_unreachable(load("grpo", None, ["policy.model_name=Qwen/Qwen3-0.6B"]))
    assert os.environ["HF_HUB_OFFLINE"] == "0"


def test_reachable_means_that_the_endpoint_takes_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
        assert startup.reachable()
    assert not startup.reachable()
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "http://proxy"})
    assert startup.reachable()


@pytest.mark.slow
def test_nemos_log_level(tmp_path: Path) -> None:
    code = "import sys; from hone.config import load; from hone.training.startup import log_as_asked;"
    code += "log_as_asked(load('sft', None, ['sft.seed=4321']))"

    def said(level: str | None) -> subprocess.CompletedProcess[str]:
        wanted = {} if level is None else {"NEMO_LOG_LEVEL": level}
        environment = {key: value for key, value in os.environ.items() if key != "NEMO_LOG_LEVEL"} | wanted
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
        )

    assert "seed: 4321" in said("DEBUG").stderr
    assert said("info").stderr == said(None).stderr == ""
    assert "NEMO_LOG_LEVEL=LOUD: choose one of DEBUG" in said("LOUD").stderr


@pytest.mark.parametrize("command", [["sft"], ["sft", "--dry-run"], ["plan", "sft"]])
def test_each_command_with_settings_hears_the_log_level(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NEMO_LOG_LEVEL", "LOUD")
    assert main(command) == 2
    assert "NEMO_LOG_LEVEL=LOUD: choose one of DEBUG" in capsys.readouterr().err
