"""The names that people type: lr, epochs, model, TRL's; and suggestions by meaning."""

from __future__ import annotations

from typing import Any

import pytest

from hone.api.arguments import settings_of
from hone.config import dialects, load
from hone.config.keys import find
from hone.config.nested import split_path
from hone.config.reference_table import explained
from hone.config.schema import ROOTS
from hone.errors import ConfigError


def value(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = (
            config[int(part)]
            if part.isdigit()
            else config[part]
            if isinstance(config, dict)
            else getattr(config, part)
        )
    return config


TYPED: list[tuple[str, str, str, Any]] = [
    ("sft", "lr=1e-4", "policy.optimizer.kwargs.lr", 1e-4),
    ("grpo", "learning_rate=1e-4", "policy.optimizer.kwargs.lr", 1e-4),
    ("sft", "batch_size=8", "policy.train_global_batch_size", 8),
    ("grpo", "batch_size=32", "grpo.num_prompts_per_step", 4),  # of 8 completions each
    ("dpo", "epochs=3", "dpo.max_num_epochs", 3),
    ("distill", "num_train_epochs=2", "distillation.max_num_epochs", 2),
    ("rm", "max_steps=7", "rm.max_num_steps", 7),
    ("sft", "model=models/x", "policy.model_name", "models/x"),
    ("eval", "model=models/x", "generation.model_name", "models/x"),
    ("sft", "output_dir=out", "checkpointing.checkpoint_dir", "out"),
    ("eval", "output_dir=out", "eval.save_path", "out"),
    ("grpo", "log_completions=false", "logger.log_rollouts", False),
    ("grpo", "grpo.async_grpo.enabled=true", "grpo.async_rollouts", "lookahead"),
    (
        "grpo",
        "grpo.async_grpo={enabled: true, max_trajectory_age_steps: 1, in_flight_weight_updates: false}",
        "grpo.async_rollouts",
        "lookahead",
    ),
    (
        "grpo",
        "grpo.async_grpo={enabled: true, max_trajectory_age_steps: 3}",
        "grpo.async_rollouts",
        "stream",
    ),
    ("grpo", "grpo.async_grpo={enabled: true, max_trajectory_age_steps: 3}", "grpo.max_staleness", 3),
    ("ppo", "ppo.async_ppo={enabled: true, in_flight_weight_updates: true}", "ppo.async_rollouts", "stream"),
    ("ppo", "ppo.async_ppo={enabled: false, in_flight_weight_updates: true}", "ppo.async_rollouts", None),
    ("ppo", "ppo.async_ppo.enabled=false", "ppo.async_rollouts", None),
    ("grpo", "grpo.async_grpo.max_trajectory_age_steps=1", "grpo.async_rollouts", None),
    ("grpo", "use_vllm=true", "policy.generation.backend", "vllm"),
    ("grpo", "vllm_mode=server", "policy.generation.vllm_cfg.server_urls", ["http://localhost:8000"]),
    ("grpo", "vllm_mode=colocate", "policy.generation.vllm_cfg.server_urls", []),
    ("ppo", "vllm_server_host=node7", "policy.generation.vllm_cfg.server_urls", ["http://node7:8000"]),
    ("grpo", "vllm_server_port=9", "policy.generation.vllm_cfg.server_urls", ["http://localhost:9"]),
    ("grpo", "vllm_server_base_url=http://n:1/", "policy.generation.vllm_cfg.server_urls", ["http://n:1"]),
    ("grpo", "vllm_enable_sleep_mode=true", "policy.generation.vllm_cfg.sleep_level", 1),
    ("grpo", "vllm_server_timeout=9", "policy.generation.vllm_cfg.server_timeout_s", 9),
    ("grpo", "num_generations=4", "grpo.num_generations_per_prompt", 4),
    ("ppo", "kl_coef=0.05", "loss_fn.reference_policy_kl_penalty", 0.05),
    ("dpo", "beta=0.3", "dpo.reference_policy_kl_penalty", 0.3),
    ("dpo", "loss_type=ipo", "dpo.preference_loss.ipo", 1.0),
    ("sft", "bf16=true", "policy.precision", "bfloat16"),
    ("sft", "lora_r=8", "policy.lora.enabled", True),
    ("sft", "report_to=wandb", "logger.wandb_enabled", True),
    ("sft", "data.train=f.jsonl", "data.train.0.dataset_name", "f.jsonl"),
    ("sft", "data.train=[a.jsonl,b.jsonl]", "data.train.1.dataset_name", "b.jsonl"),
    ("sft", "data.validation=v.jsonl", "data.validation.0.dataset_name", "v.jsonl"),
    ("grpo", "rewards.functions=[f.py:fn]", "rewards.functions.0.path", "f.py:fn"),
    ("grpo", "rewards.functions=[math,f.py:fn]", "rewards.functions.0.name", "math"),
    ("grpo", "reward_funcs=f.py:fn", "rewards.functions.0.path", "f.py:fn"),
]


@pytest.mark.parametrize(("kind", "text", "key", "expected"), TYPED, ids=lambda part: str(part))
def test_what_is_typed_is_understood(kind: Any, text: str, key: str, expected: Any) -> None:
    loaded = load(kind, None, [text])
    assert value(loaded.config, key) == expected


def test_in_files_and_in_python_too(tmp_path: Any) -> None:
    (tmp_path / "run.yaml").write_text("lr: 1.0e-4\nepochs: 2\ndata: {train: rows.jsonl}\nmodel: models/x\n")
    config = load("sft", tmp_path / "run.yaml", ["lr=2e-4"]).config
    assert (config.policy.optimizer.kwargs["lr"], config.sft.max_num_epochs) == (2e-4, 2)
    assert (config.policy.model_name, config.data.train[0].dataset_name) == ("models/x", "rows.jsonl")
    given = settings_of("grpo", {"lr": 3e-4, "epsilon": 0.1, "epsilon_high": 0.3, "log_completions": False})
    config = load("grpo", None, given).config
    assert (config.loss_fn.ratio_clip_min, config.loss_fn.ratio_clip_max) == (0.1, 0.3)
    assert not config.logger.log_rollouts


def test_it_is_said_what_they_were_read_as() -> None:
    assert "read lr as policy.optimizer.kwargs.lr" in load("sft", None, ["lr=1e-4"]).notices


@pytest.mark.parametrize("kind", ROOTS)
def test_every_name_has_a_key_of_ours(kind: Any) -> None:
    for alias in dialects.short(kind):
        for key in alias.to:
            assert find(ROOTS[kind], split_path(key)).what == "key", (alias.path, key)
        assert alias.path not in ROOTS[kind].model_fields


MEANT = [
    ("sft", "policy.lr=1", "did you mean policy.optimizer.kwargs.lr?"),
    ("ppo", "value.learning_rate=1", "did you mean value.optimizer.kwargs.lr?"),
    ("sft", "sft.batch_size=1", "did you mean policy.train_global_batch_size?"),
    ("grpo", "grpo.temperature=1", "did you mean policy.generation.temperature?"),
    ("grpo", "grpo.epochs=1", "did you mean grpo.max_num_epochs?"),
    ("sft", "train.model_name=x", "did you mean policy.model_name?"),
    ("sft", "per_device_train_batch_size=4", "write policy.train_global_batch_size=N"),
    ("sft", "warmup_ratio=0.1", "write policy.scheduler="),
    ("sft", "logging_steps=1", "write nothing: every step is logged"),
    ("grpo", "vllm_mode=remote", "vllm_mode=remote: expected server or colocate"),
    ("sft", "policy.optimizr.name=x", "did you mean policy.optimizer.name?"),
]


@pytest.mark.parametrize(("kind", "text", "said"), MEANT, ids=lambda part: str(part))
def test_a_suggestion_goes_by_meaning(kind: Any, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(kind, None, [text])
    assert said in str(caught.value)


def test_what_to_write_instead_is_no_accepted_name() -> None:
    for kind in ROOTS:
        assert not dialects.replacements().keys() & {alias.path for alias in dialects.short(kind)}


def test_config_explains_a_short_name() -> None:
    assert explained("sft", "lr").startswith(
        "lr is read as policy.optimizer.kwargs.lr\n\npolicy.optimizer.kwargs\n"
    )
    with pytest.raises(ConfigError, match=r"policy\.lr: did you mean policy\.optimizer\.kwargs\.lr\?"):
        explained("sft", "policy.lr")
    with pytest.raises(ConfigError, match=r"did you mean sft\.val_period"):
        explained("sft", "sft.val_perid")
