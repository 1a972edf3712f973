"""A generation_config.json that transformers loads and will not save: training with it ends with a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from saving import ADAMW, checkpoints_of, save
from tiny import EOS, make_learner, make_model, make_tokenizer, sft_config
from transformers import AutoModelForCausalLM

from hone.export import convert
from hone.model import generation_config
from hone.model.loading import load_model

CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "greedy with a temperature": (
        {"do_sample": False, "temperature": 0.6, "top_p": 0.9},
        ["temperature", "top_p"],
    ),
    "not said whether to sample": ({"top_k": 20, "repetition_penalty": 1.05}, ["top_k"]),
    "for another reason": ({"do_sample": True, "output_scores": True}, ["do_sample", "output_scores"]),
}


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / "model"
    make_model().save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [EOS, 5], **request.param}))
    return path


@pytest.mark.parametrize(("folder", "left_out"), CASES.values(), ids=CASES, indirect=["folder"])
def test_what_greedy_decoding_does_not_read_is_left_out_and_told_before(
    folder: Path, left_out: list[str], tmp_path: Path
) -> None:
    (notice,) = generation_config.notices("policy", "mine", str(folder))
    assert f"without {', '.join(left_out)}" in notice
    learner = make_learner(load_model(str(folder)), sft_config(optimizer=ADAMW).policy)
    step = save(checkpoints_of(tmp_path / "run"), 1, learner)
    out = convert(step / "config.yaml", step / "policy" / "weights", tmp_path / "out")
    written = AutoModelForCausalLM.from_pretrained(out).generation_config
    assert written.eos_token_id == [EOS, 5]
    assert not generation_config.notices("policy", "mine", str(out))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out", "run"]


@pytest.mark.parametrize("folder", [{}, {"do_sample": True, "temperature": 0.6}], indirect=True)
def test_one_that_can_be_saved_stays(folder: Path) -> None:
    assert generation_config.notices("policy", "mine", str(folder)) == []
    given = load_model(str(folder)).generation_config
    assert generation_config.savable(given) == (given, [])
