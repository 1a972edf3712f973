"""The ranks of a learner publish together what one process would: a checkpoint's names and pieces, or a PEFT folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import on_meshes, on_ranks, spread_tiny
from safetensors.torch import load_file
from tiny import PAD, VOCABULARY, grpo_config, make_model, run
from transformers import Qwen3MoeConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from hone.engine.local.learner import LocalLearner
from hone.engine.vllm.launch import publisher_for
from hone.engine.weight_files import Publication
from hone.model.adapters import with_lora
from hone.model.mesh import Mesh
from hone.planning.parallel_dims import ParallelDims

LORA = {"enabled": True, "dim": 2}


def moe() -> Any:
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
    )
    return AutoModelForCausalLM.from_config(config)


def adapted() -> Any:
    model = with_lora(make_model(), grpo_config(policy={"lora": LORA}).policy.lora, seed=3)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    return model


MODELS: dict[str, Callable[[], Any]] = {
    "tied": lambda: make_model("qwen3"),
    "experts": moe,
    "adapters": adapted,
}


def publish(mesh: Mesh, kind: str, folder: str) -> None:
    config = grpo_config(policy={"lora": LORA if kind == "adapters" else {}})
    learner = LocalLearner(spread_tiny(mesh, MODELS[kind]), config.policy, pad_token=PAD)
    run(publisher_for(learner, config, Path(folder)).publish(4))


@pytest.mark.parametrize("kind", MODELS)
@on_meshes()
def test_all_ranks_publish_what_one_process_would_save(mesh: ParallelDims, kind: str, tmp_path: Path) -> None:
    if mesh.tensor > 1 and kind != "tied":
        pytest.skip("adapters and experts are not spread over tensor ranks")
    (tmp_path / "weights").mkdir()
    on_ranks(mesh, publish, kind, str(tmp_path / "weights"))
    MODELS[kind]().save_pretrained(tmp_path / "saved")
    if kind == "adapters":
        saved = load_file(tmp_path / "saved" / "adapter_model.safetensors")
        found = load_file(tmp_path / "weights" / "v4" / "adapter_model.safetensors")
    else:
        publication = Publication.open(tmp_path / "weights", 4)
        publication.verify()
        saved, found = load_file(tmp_path / "saved" / "model.safetensors"), dict(publication)
        assert (["lm_head.weight", "model.embed_tokens.weight"] in map(sorted, publication.ties)) == (
            kind == "tied"
        )
    assert found.keys() == saved.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in saved.items())
