"""What was not given follows what was: one setting alone never stands against a recipe, a preset or a default."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hone.config import load
from hone.config.keys import all_keys
from hone.config.loading import files
from hone.config.schema import ROOTS
from hone.errors import ConfigError
from tests.helpers.other_values import other_value


def value(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = getattr(config, part)
    return config


ALONE: list[tuple[str, list[str], dict[str, Any]]] = [
    (
        "sft",
        ["policy.train_global_batch_size=12"],
        {"policy.train_micro_batch_size": 6},
    ),  # the recipe has 8 of 32
    (
        "sft",
        ["policy.train_micro_batch_size=12"],
        {"policy.train_global_batch_size": 36},
    ),  # the nearest to 32
    ("dpo", ["policy.train_global_batch_size=4"], {"policy.train_micro_batch_size": 4}),
    ("rm", ["policy.train_global_batch_size=9"], {"policy.train_micro_batch_size": 3}),
    # 8 prompts x 8 completions in one update of 64
    ("grpo", ["grpo.num_prompts_per_step=5"], {"policy.train_global_batch_size": 40}),
    ("grpo", ["grpo.num_prompts_per_step=16"], {"policy.train_global_batch_size": 64}),  # two updates
    ("grpo", ["grpo.num_generations_per_prompt=6"], {"policy.train_global_batch_size": 48}),
    ("grpo", ["policy.train_global_batch_size=24"], {"grpo.num_prompts_per_step": 9}),  # 72 = 3 x 24
    ("grpo", ["policy.train_micro_batch_size=12"], {"grpo.num_prompts_per_step": 9}),  # 72 = 6 x 12
    (
        "grpo",
        ["grpo.num_prompts_per_step=5", "policy.train_global_batch_size=20"],
        {"grpo.num_generations_per_prompt": 8},
    ),
    (
        "grpo",
        ["grpo.num_prompts_per_step=5", "policy.train_global_batch_size=30"],
        {"grpo.num_generations_per_prompt": 6},
    ),
    ("ppo", ["value.train_global_batch_size=48"], {"ppo.num_prompts_per_step": 48}),
    ("ppo", ["policy.train_global_batch_size=48"], {"ppo.num_prompts_per_step": 48}),
    (
        "ppo",
        ["ppo.adv_estimator.name=rloo"],
        {"ppo.num_generations_per_prompt": 16, "ppo.num_prompts_per_step": 4},
    ),
    ("ppo", ["ppo.use_dynamic_sampling=true"], {"ppo.num_generations_per_prompt": 16}),
    ("ppo", ["ppo.batch_multiplier=2"], {"ppo.use_dynamic_sampling": True, "ppo.num_prompts_per_step": 4}),
    ("ppo", ["loss_fn.force_on_policy_ratio=true"], {"ppo.ppo_epochs": 1}),
    ("ppo", ["value.max_total_sequence_length=256"], {"policy.max_total_sequence_length": 256}),
    ("ppo", ["value.tensor_parallel_size=2"], {"policy.tensor_parallel_size": 2}),
    (
        "ppo",
        ["ppo.max_num_steps=30", "ppo.policy_training_start_step=10"],
        {"ppo.policy_training_start_step": 10},
    ),
    ("distill", ["distillation.num_prompts_per_step=100"], {"policy.train_global_batch_size": 100}),
    ("distill", ["loss_fn.jsd_beta=0.1"], {"loss_fn.kl_type": "jsd"}),
    ("distill", ["teacher.max_total_sequence_length=64"], {"policy.max_total_sequence_length": 64}),
    ("sft", ["policy.lora.dim=16"], {"policy.lora.enabled": True}),
    ("sft", ["policy.lora.dim=16", "policy.lora.enabled=false"], {"policy.lora.enabled": False}),
    ("sft", ["policy.lora.target_modules=[q_proj]"], {"policy.lora.match_all_linear": False}),
    (
        "sft",
        ["policy.sequence_packing.enabled=true", "policy.sequence_packing.train_mb_tokens=100"],
        {"policy.max_total_sequence_length": 100},
    ),
    (
        "dpo",
        ["policy.dynamic_batching.enabled=true", "policy.dynamic_batching.train_mb_tokens=100"],
        {"policy.max_total_sequence_length": 50},  # of a pair each
    ),
    ("dpo", ["dpo.simpo_gamma=1.0"], {"dpo.preference_loss": {"simpo": 1.0}}),
    ("dpo", ["dpo.desirable_weight=1.5"], {"dpo.preference_loss": {"kto": 1.0}}),
    ("dpo", ["dpo.label_smoothing=0.1"], {"dpo.preference_loss": {"sigmoid": 1.0}}),  # which reads it
    ("dpo", ["dpo.preference_loss=orpo"], {"dpo.sft_loss_weight": 1.0, "dpo.sft_average_log_probs": True}),
    ("dpo", ["dpo.preference_loss=cpo"], {"dpo.sft_loss_weight": 1.0, "dpo.sft_average_log_probs": False}),
    ("eval", ["eval.k_value=4"], {"eval.num_tests_per_prompt": 4, "generation.temperature": 0.6}),
    ("eval", ["eval.num_tests_per_prompt=4"], {"generation.temperature": 0.6, "eval.k_value": 1}),
    ("grpo", ["env.path=a.py:B"], {"grpo.max_rollout_turns": 4}),
    ("grpo", ["grpo.stop_at_validation_threshold=0.5"], {"grpo.stop_at_validation_metric": "accuracy"}),
    ("grpo", ["grpo.batch_multiplier=2"], {"grpo.use_dynamic_sampling": True}),
    ("grpo", ["grpo.extra_prompts_in_flight=0", "grpo.max_staleness=1"], {"grpo.async_rollouts": None}),
    (
        "grpo",
        ["grpo.max_staleness=4"],
        {"grpo.async_rollouts": "stream", "policy.generation.colocated.enabled": False},
    ),
    (
        "grpo",
        ["grpo.num_generations_per_prompt=1"],
        {"grpo.adv_estimator.name": "reinforce_plus_plus", "grpo.adv_estimator.minus_baseline": False},
    ),
    (
        "ppo",
        ["ppo.adv_estimator.name=reinforce_plus_plus", "ppo.num_generations_per_prompt=1"],
        {"ppo.adv_estimator.minus_baseline": False},
    ),
    (
        "grpo",
        ["loss_fn.truncated_importance_sampling_ratio=2"],
        {"loss_fn.use_importance_sampling_correction": True},
    ),
    ("grpo", ["loss_fn.use_kl_in_reward=true"], {"loss_fn.reference_policy_kl_type": "k1"}),
    (
        "grpo",
        ["grpo.async_rollouts=lookahead"],
        {"policy.generation.colocated.enabled": False},
    ),
    (
        "online-dpo",
        ["online_dpo.async_rollouts=lookahead"],
        {"policy.generation.colocated.enabled": False},
    ),
    (
        "grpo",
        ["grpo.async_rollouts=lookahead", "loss_fn.disable_ppo_ratio=true"],
        {"loss_fn.use_importance_sampling_correction": True},
    ),
    # what a preset says gives way, too
    (
        "grpo",
        ["grpo.preset=rloo", "loss_fn.use_bias_correction_kl=true"],
        {"loss_fn.use_kl_in_reward": False},
    ),
    (
        "grpo",
        ["grpo.preset=rloo", "loss_fn.reference_policy_kl_type=k2"],
        {"loss_fn.use_kl_in_reward": False},
    ),
    ("grpo", ["grpo.preset=rloo", "loss_fn.token_level_loss=false"], {"loss_fn.constant_denominator": None}),
    ("grpo", ["grpo.preset=gspo", "loss_fn.constant_denominator=9"], {"loss_fn.token_level_loss": True}),
    (
        "grpo",
        ["grpo.preset=rloo", "loss_fn.reference_policy_kl_penalty=0"],
        {"loss_fn.use_kl_in_reward": False},
    ),
    (
        "grpo",
        ["grpo.preset=dapo", "loss_fn.use_kl_in_reward=true"],
        {"loss_fn.reference_policy_kl_penalty": 0.01},
    ),
    ("grpo", ["grpo.preset=dapo", "grpo.adv_estimator.name=gdpo"], {"grpo.reward_shaping.enabled": False}),
    ("grpo", ["grpo.preset=cispo", "loss_fn.use_sapo=true"], {"loss_fn.use_cispo": False}),
    (
        "grpo",
        [
            "grpo.preset=dapo",
            "grpo.reward_shaping.max_response_length=20",
            "policy.generation.max_new_tokens=400",
        ],
        {"grpo.reward_shaping.overlong_buffer_length": 4},  # a fifth
    ),
]


@pytest.mark.parametrize(("kind", "given", "follows"), ALONE, ids=lambda part: str(part)[:60])
def test_one_setting_alone(kind: Any, given: list[str], follows: dict[str, Any]) -> None:
    loaded = load(kind, None, given)
    assert {key: value(loaded.config, key) for key in follows} == follows
    for text in given:
        key, _, said = text.partition("=")
        held = value(loaded.config, key)
        assert held == files.parse(said) or isinstance(held, dict)  # what was given stays


def test_a_length_that_nobody_gave_follows_the_models_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "config.json").write_text('{"model_type": "gpt2", "n_positions": 256}')
    cached = tmp_path / "hub" / "models--me--mine" / "snapshots" / "0123"
    cached.mkdir(parents=True)
    (cached / "config.json").write_text('{"text_config": {"max_position_embeddings": 128}}')
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    loaded = load("sft", None, [f"model={tmp_path / 'small'}"])
    assert loaded.config.policy.max_total_sequence_length == loaded.config.data.max_input_seq_length == 256
    assert any("max_total_sequence_length=256: not given" in notice for notice in loaded.notices)
    given = load("sft", None, [f"model={tmp_path / 'small'}", "max_length=300"])
    assert given.config.policy.max_total_sequence_length == 300  # which the run refuses, naming both
    assert load("grpo", None, ["model=me/mine"]).config.policy.generation.max_new_tokens == 128
    assert load("eval", None, ["model=me/mine"]).config.generation.max_model_len == 128
    assert load("sft", None, ["model=me/other"]).config.policy.max_total_sequence_length == 1024
    more = [f"model={tmp_path / 'small'}", "policy.hf_config_overrides={max_position_embeddings: 512}"]
    assert load("sft", None, more).config.policy.max_total_sequence_length == 512


def test_it_is_said_in_one_line_for_each_cause() -> None:
    notices = load("grpo", None, ["grpo.num_prompts_per_step=5"]).notices
    assert (
        "policy.train_global_batch_size=40: not given, so it follows grpo.num_prompts_per_step=5" in notices
    )
    assert not [notice for notice in load("grpo", None, ["grpo.seed=5"]).notices if "follow" in notice]


def test_two_given_values_are_named_both() -> None:
    with pytest.raises(
        ConfigError, match=r"policy\.train_global_batch_size=8 is not a multiple of .*_size=16"
    ):
        load("sft", None, ["policy.train_global_batch_size=8", "policy.train_micro_batch_size=16"])


def test_what_followed_is_given_in_the_resolved_file(tmp_path: Any) -> None:
    loaded = load("ppo", None, ["ppo.batch_multiplier=2"])
    (tmp_path / "resolved.yaml").write_text(loaded.to_yaml())
    assert load("ppo", tmp_path / "resolved.yaml", []).config == loaded.config


NEEDS = {
    "policy.lora.adalora.enabled=true": "needs policy.lora.adalora.total_step",
    "value.lora.adalora.enabled=true": "needs value.lora.adalora.total_step",
    "loss_fn.truncated_importance_sampling_type=tis": "needs loss_fn.truncated_importance_sampling_ratio",
    "grpo.max_rollout_turns=2": "needs an environment",
    "ppo.max_rollout_turns=2": "needs an environment",
    "eval.max_rollout_turns=2": "needs an environment",
    "online_dpo.max_rollout_turns=2": "needs an environment",
    "distillation.max_rollout_turns=2": "there are no environments",
}
"""Settings that ask for something only the user can name: an error that says what."""
REFUSED = {
    "policy.pipeline_parallel_size=2": "Hone has no pipeline parallelism",
    "value.pipeline_parallel_size=2": "Hone has no pipeline parallelism",
    "policy.disable_dropout=false": "the reference model's log-probabilities are computed without dropout",
    "policy.generation.repetition_penalty=1.5": "so the gradient would be wrong",
}
"""Settings that are refused by themselves, by the words of the error: no other setting is held against them."""


def _each_alone() -> Iterator[tuple[str, str]]:
    seen = set()
    for kind, root in ROOTS.items():
        resolved = load(kind, None, []).config
        for key, field, owner in all_keys(root):
            if key.startswith(("data.train", "data.validation", "policy.scheduler", "value.scheduler")):
                continue
            if key.startswith("rewards.functions") or (key, owner) in seen:
                continue
            seen.add((key, owner))
            other = other_value(field, value(resolved, key))
            if other is not None:
                yield kind, f"{key}={files.dump(other).splitlines()[0]}"


@pytest.mark.slow
def test_each_setting_alone_is_accepted() -> None:
    tried, needed, refused = 0, set(), {}
    for kind, text in _each_alone():
        tried += 1
        try:
            load(kind, None, [text])
        except ConfigError as error:
            if (NEEDS | REFUSED).get(text, "nothing") in str(error):
                needed.add(text)
            else:
                refused[f"{kind} {text}"] = str(error)
    assert tried > 400
    assert not refused
    assert needed == NEEDS.keys() | REFUSED.keys()
