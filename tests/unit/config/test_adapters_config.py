"""`policy.lora` in upstream's, PEFT's and NeMo's words, and what of it cannot go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hone.config import load
from hone.errors import ConfigError

ON = "policy.lora.enabled=true"


def lora(*overrides: str, config: Path | None = None) -> dict[str, Any]:
    found = load("sft", config, list(overrides)).config.policy.lora
    return {
        name: value for name, value in found.model_dump(exclude_defaults=True).items() if value is not None
    }


def problem(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load("sft", None, list(overrides))
    return str(caught.value)


def test_pefts_words() -> None:
    given = lora(ON, "policy.lora.r=4", "policy.lora.lora_alpha=8", "policy.lora.lora_dropout=0.1")
    assert given == {"enabled": True, "dim": 4, "alpha": 8, "dropout": 0.1}
    assert lora(ON, "policy.lora.use_dora=true", "policy.lora.use_rslora=true") == {
        "enabled": True,
        "use_dora": True,
        "use_rslora": True,
    }


@pytest.mark.parametrize(
    "section",
    [
        "dtensor_cfg: {lora_cfg: {enabled: true, dim: 4, lora_A_init: xavier}}",
        "megatron_cfg: {enabled: true, peft: {enabled: true, dim: 4, lora_A_init_method: xavier}}",
    ],
)
def test_upstreams_words(section: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        f"policy:\n  model_name: models/llama\n  {section}\ndata: {{train: {{dataset_name: x.jsonl}}}}\n"
    )
    assert lora(config=path) == {"enabled": True, "dim": 4, "init_lora_weights": "xavier"}


def test_nemos_schemes() -> None:
    assert lora("model.peft.peft_scheme=dora") == {"enabled": True, "use_dora": True}
    assert lora("model.peft.peft_scheme=qlora") == {"enabled": True, "load_in_4bit": True}
    assert lora("model.peft.peft_scheme=none") == {}


def test_the_rank_to_begin_with() -> None:
    config = load("sft", None, [ON, "policy.lora.adalora.enabled=true", "policy.lora.adalora.total_step=9"])
    assert config.config.policy.lora.rank == 12  # PEFT's proportion: 12 for 8
    assert load("sft", None, [ON]).config.policy.lora.rank == 8


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["init_lora_weights=pizza"], "policy.lora.init_lora_weights"),
        (["init_lora_weights=orthogonal", "dim=3"], "set policy.lora.dim to 4"),
        (["init_lora_weights=pissa", "use_dora=true"], "set one of them only"),
        (["init_lora_weights=olora", "load_in_4bit=true"], "set init_lora_weights to null"),
        (
            ["adapter_path=x", "init_lora_weights=kaiming"],
            "adapter_path and policy.lora.init_lora_weights define two",
        ),
        (["adalora.enabled=true"], "needs policy.lora.adalora.total_step"),
        (["adalora.enabled=true", "adalora.total_step=9", "use_dora=true"], "exclude each other"),
        (
            ["adalora.enabled=true", "adalora.total_step=9", "adalora.init_r=8", "dim=8"],
            "not above policy.lora.dim=8",
        ),
        (
            ["adalora.enabled=true", "adalora.total_step=9", "adalora.tinit=5", "adalora.tfinal=4"],
            "leave none of the policy.lora.adalora.total_step=9 updates",
        ),
    ],
)
def test_what_cannot_go_together(overrides: list[str], says: str) -> None:
    assert says in problem(ON, *(f"policy.lora.{text}" for text in overrides))


def test_what_is_off_may_say_anything() -> None:
    lora(
        "policy.lora.enabled=false",
        "policy.lora.adalora.enabled=true",
        "policy.lora.init_lora_weights=orthogonal",
        "policy.lora.dim=3",
    )
