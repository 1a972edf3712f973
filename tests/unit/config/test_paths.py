"""An address where a path of this machine is meant is refused by name: nothing is made that is called `s3:`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import ValidationError

from hone.cli import main
from hone.config import load
from hone.config.keys import all_keys
from hone.config.paths import check_local
from hone.config.schema import ROOTS
from hone.errors import ConfigError, HoneError

ADDRESS = "s3://bucket/run"
NO_PATHS = {
    *("metric_name", "stop_at_validation_metric", "checkpoint_must_save_by"),  # metrics, a time
    *("project", "experiment_name", "run_name", "env_name"),  # names that are shown, or that data choose
    *("subset", "split", "input_key", "output_key", "chosen_key", "rejected_key", "prompt_template"),
    *("action", "observation", "stop_strings", "target_modules", "exclude_modules", "datasets", "envs"),
    *("modules_to_save", "model", "api_key_env", "lm_eval"),
}
ADDRESSES = {
    "dataset_name": "fsspec reads it",
    "tracking_uri": "a server",
    "ray_address": "a server",
    "base_url": "a server",
}
OTHER_NAMES = {"OptimizerConfig.name", "SchedulerEntry.name", "RewardFunctionConfig.name", "WandbConfig.name"}


def _texts() -> Iterator[tuple[Any, str, Any]]:
    """(section, name, value) of every setting that takes any text, or a list of texts, with an address in it."""
    for root in ROOTS.values():
        for key, field, owner in all_keys(root):
            name, hint = key.rpartition(".")[2], field.annotation
            parts = {hint, *get_args(hint), *(part for hint in get_args(hint) for part in get_args(hint))}
            value: Any = [ADDRESS] if list[str] in parts or "list[" in str(hint) else ADDRESS
            if str in parts and not any(get_origin(part) is dict for part in parts):
                yield owner, name, value


SETTINGS = {(owner, name): value for owner, name, value in _texts()}


@pytest.mark.parametrize(("owner", "name"), SETTINGS, ids=lambda part: getattr(part, "__name__", part))
def test_a_setting_that_takes_text_refuses_addresses_or_is_no_path(owner: Any, name: str) -> None:
    bases = {f"{base.__name__}.{name}" for base in owner.__mro__}
    free = name in NO_PATHS or name in ADDRESSES or bases & OTHER_NAMES
    refused = ""
    try:
        owner.__pydantic_validator__.validate_assignment(owner.model_construct(), name, SETTINGS[owner, name])
    except ValidationError as error:
        refused = str(error)
    if free:
        return
    known = ("s3:// is not supported here", "string_pattern_mismatch", "is not the URL of a server")
    assert any(text in refused for text in known), f"{name} takes an address: make it a LocalPath, or list it"


def test_the_walk_sees_the_folders() -> None:
    names = {name for _, name in SETTINGS}
    assert names >= {
        "checkpoint_dir",
        "log_dir",
        "save_path",
        "adapter_path",
        "prompt_file",
        "model_name",
        "path",
    }


@pytest.mark.parametrize(
    "address", ["s3://b/x", "gs://b/x", "S3://b/x", "hf://m/x", "abfss://c@a/x", "s3:/b/x"]
)
def test_every_scheme(address: str) -> None:
    with pytest.raises(ConfigError, match=r"^checkpointing\.checkpoint_dir=.*not supported here, only paths"):
        load("sft", None, [f"checkpointing.checkpoint_dir={address}"])


@pytest.mark.parametrize("path", ["results/a", "/tmp/a:b/c", "~/x", "C:/x", "./s3/x", "a b:/c", "hone/tiny"])
def test_paths_stay(path: str) -> None:
    check_local(path, "x")


def test_a_file_address_is_told_as_a_path() -> None:
    with pytest.raises(ConfigError, match="write it as a path, /tmp/run"):
        load("sft", None, ["checkpointing.checkpoint_dir=file:///tmp/run"])


def test_data_may_lie_anywhere() -> None:
    loaded = load("sft", None, ["data.train.dataset_name=s3://bucket/rows.jsonl"])
    assert loaded.config.data.train[0].dataset_name == "s3://bucket/rows.jsonl"


def test_the_spelling_of_the_user_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^checkpoint\.save_dir=s3://b/x: s3://"):
        load("sft", None, ["checkpoint.save_dir=s3://b/x"])


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["convert", "s3://b/run", "out"], "RUN_OR_STEP_FOLDER=s3://b/run"),
        (
            ["convert", "--config", "c", "--dcp-ckpt-path", "w", "--hf-ckpt-path", "s3://b/out"],
            "OUT=s3://b/out",
        ),
        (["show", "s3://b/run"], "RUN=s3://b/run"),
        (["sft", "--config", "s3://b/c.yaml"], "--config=s3://b/c.yaml"),
        (["eval", "eval.save_path=gs://b/x"], "eval.save_path=gs://b/x"),
        (
            ["tune", "sft", "policy.optimizer.kwargs.lr=log(1e-5,1e-3)", "--folder", "s3://b/t"],
            "--folder=s3://b/t",
        ),
    ],
)
def test_commands(
    argv: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {named}: ")
    assert said.count("\n") == 1
    assert set(os.listdir()) <= {"recipes"}  # which the fixture makes


def test_a_folder_given_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hone.training.process import check_writable

    monkeypatch.chdir(tmp_path)
    with pytest.raises(HoneError, match=r"logger\.log_dir=s3://b/x: s3://"):
        check_writable(Path("s3://b/x"), "logger.log_dir")
