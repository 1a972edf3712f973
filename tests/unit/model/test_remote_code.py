"""Code that comes with a model: run only where `trust_remote_code` says so, and named in one line where it does not."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import make_model, make_tokenizer

from hone.config.schema import ModelConfig
from hone.errors import CheckpointError, ModelError
from hone.export import convert
from hone.model.loading import load_model, load_tokenizer
from hone.model.model_size import load_model_size
from hone.rollout.rewards.reward_model import RewardModel

CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

Path({marker!r}).write_text("")

class OwnConfig(LlamaConfig):
    model_type = "own_code"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig

class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""
CLASSES = {
    "AutoConfig": "own.OwnConfig",
    "AutoModelForCausalLM": "own.OwnModel",
    "AutoModelForSequenceClassification": "own.OwnModel",
}


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the code of `folder` leaves when it runs; it is copied to a folder of this test's."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path / "ran"


@pytest.fixture
def folder(tmp_path: Path, marker: Path) -> str:
    """A model and a tokenizer that transformers knows by their own code alone."""
    path = tmp_path / "model"
    make_model().save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    (path / "own.py").write_text(CODE.format(marker=str(marker)))
    for name, changed in {
        "config.json": {"model_type": "own_code", "auto_map": CLASSES},
        "tokenizer_config.json": {
            "tokenizer_class": "OwnTokenizer",
            "auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]},
        },
    }.items():
        file = path / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
    return str(path)


LOADERS: dict[str, Callable[..., Any]] = {
    "model": load_model,
    "shape": load_model_size,
    "tokenizer": load_tokenizer,
}


@pytest.mark.parametrize("kind", LOADERS)
def test_it_runs_only_when_it_is_trusted(kind: str, folder: str, marker: Path) -> None:
    with pytest.raises(ModelError, match=r"trust_remote_code=true") as caught:
        LOADERS[kind](folder)
    assert not marker.exists()
    assert "\n" not in str(caught.value)
    assert folder in str(caught.value)
    LOADERS[kind](folder, trust_remote_code=True)
    assert marker.exists()


def test_reward_models_have_a_setting_of_their_own(folder: str, marker: Path) -> None:
    file = Path(folder) / "config.json"
    file.write_text(
        json.dumps({**json.loads(file.read_text()), "architectures": ["OwnForSequenceClassification"]})
    )
    with pytest.raises(ModelError, match="trust_remote_code"):
        RewardModel(folder)
    assert not marker.exists()


def test_a_checkpoint_is_not_trusted_because_its_own_settings_say_so(
    folder: str, marker: Path, tmp_path: Path
) -> None:
    step = tmp_path / "run" / "step_1"
    (step / "policy").mkdir(parents=True)
    Path(folder).rename(step / "policy" / "model")
    (step / "policy" / "weights").mkdir()
    (step / "policy" / "weights" / ".metadata").write_bytes(b"")
    (step / "config.yaml").write_text("policy: {trust_remote_code: true, model_name: x}\n")
    with pytest.raises(CheckpointError, match="trust_remote_code") as caught:
        convert(step / "config.yaml", step / "policy" / "weights", tmp_path / "out")
    assert not marker.exists()
    assert "\n" not in str(caught.value)


def test_the_default_is_not_to_trust() -> None:
    assert ModelConfig().trust_remote_code is False


def test_a_known_model_is_loaded_by_transformers_own_code(folder: str, marker: Path) -> None:
    """`auto_map` beside a `model_type` that transformers has: its own class is taken, and nothing is asked."""
    file = Path(folder) / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_type": "llama"}))
    assert type(load_model(folder)).__name__ == "LlamaForCausalLM"
    assert not marker.exists()
