"""Going on in a run's folder that somebody else wrote: nothing of it runs, and one line says what is wrong."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import SFT, hone, succeeded, workplace

from hone.checkpoint.manifest import write_manifest

pytestmark = pytest.mark.slow

RUN = (*SFT, "sft.max_num_steps=3", "checkpointing.save_period=2")


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("sprung",)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = workplace(tmp_path_factory.mktemp("foreign"))
    succeeded(hone(*RUN, "sft.max_num_steps=2", "checkpointing.checkpoint_dir=good", cwd=folder))
    return folder


def foreign(place: Path, name: str, **files: Any) -> str:
    """The good run with other contents in some files of its checkpoint."""
    shutil.copytree(place / "good", place / name)
    step = place / name / "step_2"
    for file, content in files.items():
        for path in step.rglob(file.replace("_", ".")):
            path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    (step / "manifest.json").unlink()
    write_manifest(step)
    return name


@pytest.mark.parametrize("command", ["sft", "model", "convert", "eval"])
def test_no_command_runs_what_a_run_hides(command: str, place: Path) -> None:
    name = foreign(place, f"trap_{command}", _metadata=pickle.dumps(Trap()))
    argv = {
        "sft": (*RUN, f"checkpointing.checkpoint_dir={name}"),
        "model": (*RUN, f"policy.model_name={name}", "checkpointing.checkpoint_dir=other"),
        "convert": ("convert", name, f"{name}_hf"),
        "eval": (
            "eval",
            "data.dataset_name=hone/word-problems",
            f"generation.model_name={name}",
            "data.limit=8",
        ),
    }[command]
    refused(hone(*argv, cwd=place), ".metadata")
    assert not (place / "sprung").exists()
    assert not list(place.rglob(".writing*"))


@pytest.mark.parametrize(
    "state",
    [[1, 2], {"data": 3}, {"random": {}, "data": {}}, {"data": {}}],
    ids=["list", "number", "empty", "short"],
)
def test_a_state_of_something_else_is_one_line(
    state: Any, place: Path, request: pytest.FixtureRequest
) -> None:
    name = foreign(place, f"state_{request.node.callspec.id}", state_pt=state)
    refused(hone(*RUN, f"checkpointing.checkpoint_dir={name}", cwd=place), "state.pt")


@pytest.mark.parametrize("text", [b"[", b"- a\n"])
def test_settings_of_something_else_are_one_line(text: bytes, place: Path) -> None:
    name = foreign(place, f"settings_{len(text)}", config_yaml=text)
    refused(hone(*RUN, f"checkpointing.checkpoint_dir={name}", cwd=place), "config.yaml")


def refused(ended: Any, says: str) -> None:
    assert ended.code != 0, ended
    assert ended.err.startswith("error: "), ended
    assert ended.err.count("\n") == 1, ended
    assert says in ended.err, ended
