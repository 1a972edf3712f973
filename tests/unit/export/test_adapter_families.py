"""Adapters of models that are not plain: experts, GPT-2's transposed layers, embeddings that are trained as a whole."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from families import EXPERTS, model_of
from ranks import layout
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from hone.config.schema.lora import LoraConfig
from hone.engine.model_notices import model_notices
from hone.errors import ConfigError
from hone.model.adapters import with_lora
from hone.planning.placement import check_mesh
from tests.unit.export.test_adapter_export import exported, logits, policy_of, trained

peft = pytest.importorskip("peft")

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "experts": ("qwen3_moe", {}),
    "experts, transposed": ("gpt_oss", {}),
    "no experts": ("qwen3_moe", {"exclude_modules": ["experts", "gate"], "init_lora_weights": "pissa"}),
    "gpt2, pissa": ("gpt2", {"init_lora_weights": "pissa"}),
    "embeddings and head": ("llama", {"modules_to_save": ["embed_tokens", "lm_head"]}),
    "some tokens": ("llama", {"trainable_token_indices": [3, 5, 8]}),
    "some tokens, tied": ("qwen3", {"trainable_token_indices": [3, 5, 8]}),
    "tied embeddings": ("qwen3", {"modules_to_save": ["embed_tokens"]}),
}


QUICK = ("no experts", "gpt2, pissa", "tied embeddings", "some tokens, tied")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in KINDS]
)
def test_merged_and_unmerged_say_what_was_trained(kind: str, tmp_path: Path) -> None:
    family, lora = KINDS[kind]
    base = tmp_path / "base"
    model_of(family, None).save_pretrained(base)
    tiny.make_tokenizer().save_pretrained(base)
    learner, step = trained(policy_of(base, **lora), tmp_path)
    ours = logits(learner.model)
    assert float((ours - logits(model_of(family, None))).abs().max()) > 1e-2  # it has learned something
    merged = AutoModelForCausalLM.from_pretrained(exported(step, tmp_path / "merged"))
    torch.testing.assert_close(logits(merged), ours, rtol=1e-4, atol=1e-4)
    adapter = exported(step, tmp_path / "adapter", adapter=True)
    loaded = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    torch.testing.assert_close(logits(loaded), ours, rtol=1e-4, atol=1e-4)


def adapted(family: str, **lora: Any) -> set[str]:
    """The last parts of the names of what is trained in the second layer."""
    model = with_lora(model_of(family, None), LoraConfig(enabled=True, dim=2, **lora))
    names = [name.partition(".lora_")[0] for name, p in model.named_parameters() if p.requires_grad]
    wrappers = {name for name, module in model.named_modules() if hasattr(module, "parameter_name")}
    modules = {name.rpartition(".")[2] for name in names if ".1." in name and name not in wrappers}
    return modules | {
        module.parameter_name for name, module in model.named_modules() if name in wrappers and ".1." in name
    }


ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}


@pytest.mark.parametrize(
    ("family", "lora", "expected"),
    [
        ("qwen3_moe", {}, ATTENTION | {"gate_up_proj", "down_proj", "weight"}),
        ("gpt_oss", {}, ATTENTION | {"gate_up_proj", "down_proj"}),
        ("qwen3_moe", {"exclude_modules": ["experts", "gate"]}, ATTENTION),
        (
            "mixtral",
            {"exclude_modules": ["q_proj", "down_proj", "gate"]},
            ATTENTION - {"q_proj"} | {"gate_up_proj"},
        ),
        (
            "qwen3_moe",
            {"match_all_linear": False, "target_modules": ["q_proj", "gate_proj", "up_proj"]},
            {"q_proj", "gate_up_proj"},
        ),
        (
            "llama4_text",
            {"match_all_linear": False, "target_modules": ["experts"]},
            {"gate_up_proj", "down_proj"},
        ),
    ],
)
def test_experts_are_named_and_left_out_like_modules(
    family: str, lora: dict[str, Any], expected: set[str]
) -> None:
    assert adapted(family, **lora) == expected


SHARED = "model.layers.*.mlp.shared_expert"
DENSE = ", ".join(f"model.layers.*.mlp.{name}_proj" for name in ("gate", "up", "down"))


@pytest.mark.parametrize(
    ("family", "changes", "lora", "without"),
    [
        ("qwen2_moe", {}, {}, ", ".join(f"{SHARED}.{name}_proj" for name in ("gate", "up", "down"))),
        ("qwen3_moe", {"mlp_only_layers": [0]}, {"exclude_modules": ["experts", "gate"]}, DENSE),
        ("qwen2_moe", {}, {"exclude_modules": ["gate_proj", "up_proj", "down_proj", "gate"]}, ""),
        ("qwen3_moe", {}, {}, ""),
        ("llama", {}, {}, ""),
    ],
)
def test_modules_that_get_no_adapter_are_named_at_the_start(
    family: str, changes: dict[str, Any], lora: dict[str, Any], without: str, tmp_path: Path
) -> None:
    sizes = {**tiny._SHAPE, "vocab_size": tiny.VOCABULARY, **(EXPERTS if "moe" in family else {}), **changes}
    config = CONFIG_MAPPING[family](**sizes)
    config.save_pretrained(tmp_path)
    run = tiny.sft_config(model_name=str(tmp_path), lora={"enabled": True, "dim": 2, **lora})
    told = [text for text in model_notices(run, tiny.make_tokenizer()) if "no adapters" in text]
    assert [text.partition(": PEFT")[0] for text in told] == (
        [] if not without else [f"policy.lora: no adapters on {without}"]
    )
    model = with_lora(AutoModelForCausalLM.from_config(config), run.policy.lora)
    adapters = {re.sub(r"\.\d+\.", ".*.", name) for name, _ in model.named_parameters() if ".lora_A." in name}
    assert adapters
    for name in filter(None, without.split(", ")):  # it is as the notice says
        assert f"base_model.model.{name}.lora_A.default.weight" not in adapters


@pytest.mark.parametrize(
    ("family", "lora", "message"),
    [
        ("gpt2", {"init_lora_weights": "olora"}, "olora does not work for gpt2 models"),
        (
            "qwen3_moe",
            {"use_dora": True},
            "policy.lora.use_dora=true does not work for the weights of experts",
        ),
        ("qwen3_moe", {"dropout": 0.1}, "policy.lora.dropout=0.1 does not work for the weights of experts"),
        (
            "qwen3_moe",
            {"init_lora_weights": "pissa"},
            "policy.lora.init_lora_weights=pissa does not work for the weights of experts",
        ),
        (
            "qwen3_moe",
            {"adalora": {"enabled": True, "total_step": 6}},
            "policy.lora.adalora.enabled=true does not work for the weights of experts",
        ),
        (
            "qwen3_moe",
            {"match_all_linear": False, "target_modules": ["up_proj"]},
            "names up_proj without gate_proj",
        ),
        ("qwen3_moe", {"modules_to_save": ["embed_token"]}, "no such module; did you mean embed_tokens?"),
    ],
)
def test_what_experts_cannot_have_is_refused_by_name(family: str, lora: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        adapted(family, **lora)
    assert message in str(error.value)


def test_chosen_tokens_are_for_one_device() -> None:
    config = tiny.sft_config(lora={"enabled": True, "trainable_token_indices": [3]})
    with pytest.raises(
        ConfigError, match=r"policy\.lora\.trainable_token_indices is not made for several devices"
    ):
        check_mesh(config, layout(shard=2))
