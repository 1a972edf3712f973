"""LoRA through PEFT: what is trained, what a checkpoint holds, and that merging changes no output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml
from transformers import AutoModelForCausalLM

from hone.algorithms import sft
from hone.errors import ConfigError
from hone.export import convert
from hone.model.adapters import with_lora

pytest.importorskip("peft")

LORA: dict[str, Any] = {
    "lora": {"enabled": True, "dim": 4, "alpha": 8.0},
    "optimizer": {"kwargs": {"lr": 0.01}},
}


def test_only_adapters_learn_and_the_merged_model_says_the_same(tmp_path: Path) -> None:
    policy = tiny.sft_config(**LORA).policy
    learner = tiny.make_learner(with_lora(tiny.make_model(), policy.lora), policy)
    before = {name: tensor.clone() for name, tensor in learner.weights()}
    samples = tiny.make_samples(4)

    async def train() -> list[torch.Tensor]:
        for _ in range(5):
            await sft.step(learner, samples)
        await learner.save(tmp_path / "step_5" / "policy")
        return await learner.forward(samples)

    trained = tiny.run(train())
    changed = {name for name, tensor in learner.weights() if not torch.equal(tensor, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)

    step = tmp_path / "step_5"
    tiny.make_tokenizer().save_pretrained(step / "policy" / "tokenizer")
    (step / "config.yaml").write_text(yaml.safe_dump({"policy": {"lora": policy.lora.model_dump()}}))
    folder = convert(step / "config.yaml", step / "policy" / "weights", tmp_path / "hf")
    merged = tiny.make_learner(AutoModelForCausalLM.from_pretrained(folder))
    untrained = tiny.make_learner()
    for ours, theirs, start in zip(
        trained, tiny.run(merged.forward(samples)), tiny.run(untrained.forward(samples)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        assert (ours - start).abs().max() > 1e-3


def test_a_module_that_is_not_there_is_named() -> None:
    policy = tiny.sft_config(
        lora={"enabled": True, "target_modules": ["k_prj"], "match_all_linear": False}
    ).policy
    with pytest.raises(ConfigError, match=r"policy\.lora\.target_modules=\['k_prj'\]"):
        with_lora(tiny.make_model(), policy.lora)
