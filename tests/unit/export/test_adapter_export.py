"""A trained adapter as PEFT loads it, and merged: the same model. And an adapter that training begins with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from hone.algorithms import sft
from hone.config.schema.model import ModelConfig
from hone.engine.local.learner import LocalLearner
from hone.engine.local.model_factory import check_start, make_model
from hone.errors import ConfigError, ModelError
from hone.export import convert
from hone.model.adapters import trained_settings

peft = pytest.importorskip("peft")

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "adalora": {"adalora": {"enabled": True, "init_r": 4, "total_step": 6, "tinit": 1, "tfinal": 2}},
    "pissa": {"init_lora_weights": "pissa"},
    "olora, rslora": {"init_lora_weights": "olora", "use_rslora": True},
    "two modules": {"target_modules": ["q_proj", "up_proj"], "match_all_linear": False},
}
QUICK = ("dora", "adalora", "pissa")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A tiny model on disk."""
    folder = tmp_path / "models" / "base"
    tiny.make_model().save_pretrained(folder)
    tiny.make_tokenizer().save_pretrained(folder)
    return folder


def policy_of(base: Path, **lora: Any) -> ModelConfig:
    settings = {"enabled": True, "dim": 2, "alpha": 4.0, **lora}
    optimizer = {"kwargs": {"lr": 0.01}}
    return tiny.sft_config(model_name=str(base), lora=settings, optimizer=optimizer).policy


def trained(policy: ModelConfig, folder: Path, updates: int = 5) -> tuple[LocalLearner, Path]:
    """A learner that has learned, and the step folder that it has saved."""
    learner = tiny.make_learner(make_model(policy, tiny.make_tokenizer(), 0, True, True), policy)
    for update in range(updates):
        tiny.run(sft.step(learner, tiny.make_samples(4, seed=update)))
    step = folder / f"step_{updates}"
    tiny.run(learner.save(step / "policy"))
    tiny.make_tokenizer().save_pretrained(step / "policy" / "tokenizer")
    (step / "config.yaml").write_text(yaml.safe_dump({"policy": policy.model_dump()}))
    return learner, step


def exported(step: Path, out: Path, **how: Any) -> Path:
    return convert(step / "config.yaml", step / "policy" / "weights", out, **how)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.arange(2, 22)[None]).logits


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in KINDS]
)
def test_merged_and_unmerged_say_what_was_trained(kind: str, base: Path, tmp_path: Path) -> None:
    learner, step = trained(policy_of(base, **KINDS[kind]), tmp_path)
    ours = logits(learner.model)
    assert float((ours - logits(tiny.make_model())).abs().max()) > 1e-2  # it has learned something
    merged = AutoModelForCausalLM.from_pretrained(exported(step, tmp_path / "merged"))
    folder = exported(step, tmp_path / "adapter", adapter=True)
    fresh = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    unmerged = peft.PeftModel.from_pretrained(fresh, folder)
    torch.testing.assert_close(logits(merged), ours, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits(unmerged), ours, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits(unmerged.merge_and_unload()), ours, rtol=1e-5, atol=1e-5)
    sizes = [
        sum(file.stat().st_size for file in (tmp_path / name).glob("*.safetensors"))
        for name in ("adapter", "merged")
    ]
    assert sizes[0] < sizes[1]
    assert AutoTokenizer.from_pretrained(folder).pad_token_id == tiny.PAD
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(base)


def test_a_scoring_models_head_goes_with_its_adapter(base: Path, tmp_path: Path) -> None:
    from hone.config.schema.rm import RMConfig

    policy = RMConfig(
        policy={
            "model_name": str(base),
            "precision": "float32",
            "max_total_sequence_length": 64,
            "train_micro_batch_size": 1,
            "lora": {"enabled": True, "dim": 2},
        }
    ).policy
    learner = tiny.make_learner(make_model(policy, tiny.make_tokenizer(), 0, True, True), policy)
    with torch.no_grad():
        for weight in learner.model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape))
    step = tmp_path / "step_1"
    tiny.run(learner.save(step / "policy"))
    tiny.make_tokenizer().save_pretrained(step / "policy" / "tokenizer")
    (step / "config.yaml").write_text(yaml.safe_dump({"policy": policy.model_dump()}))
    folder = exported(step, tmp_path / "adapter", adapter=True)
    fresh = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
    fresh.config.pad_token_id = tiny.PAD
    torch.testing.assert_close(
        logits(peft.PeftModel.from_pretrained(fresh, folder)), logits(learner.model), rtol=1e-5, atol=1e-5
    )


def test_a_run_of_all_weights_has_no_adapter(base: Path, tmp_path: Path) -> None:
    _, step = trained(policy_of(base, enabled=False), tmp_path, updates=1)
    with pytest.raises(ConfigError, match="trained all weights"):
        exported(step, tmp_path / "adapter", adapter=True)


def test_an_adapter_of_random_weights_is_not_written(base: Path, tmp_path: Path) -> None:
    _, step = trained(policy_of(base), tmp_path, updates=1)
    settings = yaml.safe_load((step / "config.yaml").read_text())
    settings["policy"]["model_name"] = "hone/tiny"
    (step / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigError, match="hone/tiny has no weights of its own"):
        exported(step, tmp_path / "adapter", adapter=True)
    assert not list(tmp_path.glob("*adapter*"))


@pytest.mark.parametrize("kind", ["lora", pytest.param("dora", marks=pytest.mark.slow)])
def test_training_goes_on_from_an_adapter(kind: str, base: Path, tmp_path: Path) -> None:
    first, step = trained(policy_of(base, dim=4, **KINDS[kind]), tmp_path)
    folder = exported(step, tmp_path / "adapter", adapter=True)
    policy = policy_of(base, adapter_path=str(folder))
    check_start(policy, tiny.make_tokenizer())
    assert (trained_settings(policy.lora).dim, trained_settings(policy.lora).alpha) == (4, 4.0)
    second = tiny.make_learner(make_model(policy, tiny.make_tokenizer(), 0, True, True), policy)
    torch.testing.assert_close(logits(second.model), logits(first.model), rtol=1e-6, atol=1e-6)
    trainable = [name for name, weight in second.model.named_parameters() if weight.requires_grad]
    assert trainable
    assert all("lora_" in name for name in trainable)
    second.model.train()
    tiny.run(sft.step(second, tiny.make_samples(4)))
    # What training is held to (a reference) begins where it begins.
    reference = make_model(policy, tiny.make_tokenizer(), 0, False, True)
    torch.testing.assert_close(logits(reference), logits(first.model), rtol=1e-5, atol=1e-5)
    _, later = trained(policy, tmp_path / "later", updates=2)
    assert json.loads((later / "policy" / "model" / "adapter_config.json").read_text())["r"] == 4
    exported(later, tmp_path / "later" / "merged")


def test_an_adapter_for_another_base_stops_before_weights_load(base: Path, tmp_path: Path) -> None:
    _, step = trained(policy_of(base), tmp_path, updates=1)
    folder = exported(step, tmp_path / "adapter", adapter=True)
    wide = tmp_path / "models" / "wide"
    tiny.make_model(hidden_size=48, head_dim=12).config.save_pretrained(wide)  # no weights: none are read
    with pytest.raises(
        ModelError, match=r"was trained on .*base, which policy.model_name=.*wide is not: .*lora_B.weight is"
    ):
        check_start(policy_of(wide, adapter_path=str(folder)), tiny.make_tokenizer())
    renamed = tmp_path / "models" / "instruct"
    tiny.make_model().config.save_pretrained(renamed)
    with pytest.raises(ModelError, match=r"not on policy.model_name=.*instruct.*adapter_config.json"):
        check_start(policy_of(renamed, adapter_path=str(folder)), tiny.make_tokenizer())
    moved = tmp_path / "elsewhere" / "base"
    tiny.make_model().config.save_pretrained(moved)
    check_start(policy_of(moved, adapter_path=str(folder)), tiny.make_tokenizer())


def test_a_folder_without_an_adapter_is_named(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no adapter_config.json"):
        check_start(policy_of(base, adapter_path=str(tmp_path)), tiny.make_tokenizer())
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "PREFIX_TUNING"}')
    with pytest.raises(ModelError, match=r"of type PREFIX_TUNING"):
        check_start(policy_of(base, adapter_path=str(tmp_path)), tiny.make_tokenizer())
