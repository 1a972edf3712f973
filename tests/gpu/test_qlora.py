"""QLoRA: adapters on base weights in 4 bits. A run needs a card; the parts can be tried where bitsandbytes is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml
from transformers import AutoModelForCausalLM

from hone.algorithms import sft
from hone.config.schema import ClusterConfig
from hone.engine.local.learner import LocalLearner
from hone.engine.local.local_engine import BaseModelScorer
from hone.engine.local.model_factory import check_start, make_model
from hone.errors import ConfigError, ModelError
from hone.export import convert
from hone.model.quantized import four_bits, is_quantized
from hone.planning.placement import check_distributed

pytest.importorskip("peft")
FP4 = {"bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A model on disk whose layers are as wide as the blocks that share a scale."""
    folder = tmp_path / "models" / "base"
    tiny.make_model(hidden_size=64, head_dim=16, intermediate_size=128).save_pretrained(folder)
    tiny.make_tokenizer().save_pretrained(folder)
    return folder


def policy_of(base: Path, **lora: Any) -> Any:
    settings = {"enabled": True, "dim": 4, "load_in_4bit": True, **lora}
    return tiny.sft_config(model_name=str(base), lora=settings, optimizer={"kwargs": {"lr": 0.01}}).policy


def learner_of(policy: Any, device: str, seed: int = 0) -> LocalLearner:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    model = make_model(policy, tiny.make_tokenizer(), seed, True, True)
    model.to(torch.device(device))
    return tiny.make_learner(model, policy)


def train(learner: LocalLearner, updates: range) -> list[float]:
    return [tiny.run(sft.step(learner, tiny.make_samples(4, seed=n)))["loss"] for n in updates]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():  # to evaluate, bitsandbytes rounds to bfloat16 on a CPU
        return model.train(model.device.type == "cpu")(
            torch.arange(2, 22, device=model.device)[None]
        ).logits.cpu()


@pytest.mark.parametrize(
    ("device", "lora"),
    [
        pytest.param("cuda", {}, marks=pytest.mark.gpu),
        pytest.param("cuda", FP4, marks=pytest.mark.gpu),
        ("cpu", FP4),  # nf4 is packed there, to evaluate, in a way that training does not take back
    ],
    ids=["nf4", "fp4", "fp4 on a CPU"],
)
def test_it_learns_resumes_to_the_bit_and_merges(
    device: str, lora: dict[str, Any], base: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    policy = policy_of(base, **lora)
    learner = learner_of(policy, device)
    assert is_quantized(learner.model)
    layer = learner.model.get_base_model().model.layers[0].mlp.up_proj.base_layer  # type: ignore[operator]
    assert layer.weight.dtype == torch.uint8
    start = logits(learner.model)
    full = logits(AutoModelForCausalLM.from_pretrained(base))
    assert 0 < float((start - full).std()) < 0.6 * float(full.std())  # 4 bits are near, for random weights
    losses = train(learner, range(5))
    assert train(learner_of(policy, device), range(5)) == losses
    step = tmp_path / "step_5"
    tiny.run(learner.save(step / "policy"))
    kept = sum(file.stat().st_size for file in (step / "policy" / "weights").iterdir())
    assert kept < 4 * sum(p.numel() for p in learner.model.parameters() if p.requires_grad) + 60_000
    other = learner_of(policy, device, seed=1)
    tiny.run(other.load(step / "policy"))
    ours = logits(learner.model)
    assert torch.equal(logits(other.model), ours)

    tiny.make_tokenizer().save_pretrained(step / "policy" / "tokenizer")
    (step / "config.yaml").write_text(yaml.safe_dump({"policy": policy.model_dump()}))
    where = (step / "config.yaml", step / "policy" / "weights")
    merged = AutoModelForCausalLM.from_pretrained(convert(*where, tmp_path / "merged"))
    assert getattr(merged.config, "quantization_config", None) is None
    near = 1e-4 if device == "cuda" else 0.1  # a CPU has rounded its scales by now
    torch.testing.assert_close(logits(merged), ours, rtol=0, atol=near)
    assert float((ours - start).abs().max()) > 4 * float(
        (logits(merged) - ours).abs().max()
    )  # it has learned
    folder = convert(*where, tmp_path / "adapter", adapter=True)
    assert (folder / "adapter_model.safetensors").is_file()
    if device == "cpu":
        return
    # What training is held to is the base in 4 bits.
    reference = tiny.run(BaseModelScorer(learner).forward(tiny.make_samples(2)))
    fresh = tiny.run(learner_of(policy, device).forward(tiny.make_samples(2)))
    for one, two in zip(reference, fresh, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


def test_a_model_without_weights_is_refused(base: Path) -> None:
    pytest.importorskip("bitsandbytes")
    policy = policy_of(base)
    policy.model_name = "hone/tiny"
    with pytest.raises(ModelError, match="no weights to hold in 4 bits"):
        make_model(policy, tiny.make_tokenizer(), 0, True, True)


def test_without_bitsandbytes_it_says_what_to_do(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"policy.lora.load_in_4bit=true needs bitsandbytes.*pip install"):
        four_bits(policy_of(base).lora, torch.float32)
    assert four_bits(policy_of(base, load_in_4bit=False).lora, torch.float32) is None


def test_a_run_without_a_card_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        ConfigError, match=r"load_in_4bit=true needs an NVIDIA GPU.*set policy.lora.load_in_4bit=false"
    ):
        check_start(policy_of(base), tiny.make_tokenizer(), ClusterConfig())


def test_several_devices_are_refused() -> None:
    config = tiny.sft_config(lora={"enabled": True, "load_in_4bit": True})
    config.cluster = ClusterConfig(cpu_workers_per_node=2)
    with pytest.raises(ConfigError, match="load_in_4bit=true is for one device"):
        check_distributed(config)
