"""Upstream's own files load as they are; each active key of theirs is honoured or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hone.config import load
from hone.errors import ConfigError
from tests.helpers.nemo_rl_configs import nemo_rl_config, save


@pytest.mark.parametrize("kind", ["sft", "dpo", "rm", "grpo", "ppo", "distill", "eval"])
def test_the_file_loads_and_reloads(kind: Any, tmp_path: Path) -> None:
    tree = nemo_rl_config(kind)
    loaded = load(kind, save(tree, tmp_path), [])
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(loaded.to_yaml())
    assert load(kind, resolved, []).config == loaded.config


def test_grpo_values(tmp_path: Path) -> None:
    loaded = load("grpo", save(nemo_rl_config("grpo"), tmp_path), [])
    config = loaded.config
    assert config.grpo.num_prompts_per_step == 32
    assert config.policy.optimizer.kwargs == {
        "lr": 5e-6,
        "weight_decay": 0.01,
        "betas": [0.9, 0.999],
        "eps": 1e-8,
    }
    assert [phase.milestones for phase in config.policy.scheduler] == [None, None, [50]]
    assert config.policy.sequence_packing.train_mb_tokens == 512 * 4
    assert config.policy.generation.max_new_tokens == 512
    assert config.data.train[0].prompt_file == "examples/prompts/cot.txt"
    assert config.data.train[0].seed == 42
    assert [f.name for f in config.rewards.functions] == ["math"]
    assert config.rewards.num_workers == 8
    assert config.checkpointing.metric_name == "val:accuracy"
    off = [notice for notice in loaded.notices if "is off" in notice]
    assert len(off) == 1
    assert "policy.megatron_cfg.* (" in off[0]


def test_ppo_values(tmp_path: Path) -> None:
    loaded = load("ppo", save(nemo_rl_config("ppo"), tmp_path), [])
    config = loaded.config
    assert (config.ppo.ppo_epochs, config.ppo.policy_training_start_step) == (4, 0)
    estimator = config.ppo.adv_estimator
    assert (estimator.name, estimator.gae_gamma, estimator.length_adaptive_alpha) == ("gae", 1, 0.0)
    assert estimator.gae_lambda_value == estimator.gae_lambda_policy == estimator.gae_lambda == 0.95
    assert (config.value_loss_fn.scale, config.value_loss_fn.cliprange) == (0.4, 0.2)
    assert (config.loss_fn.ratio_clip_max, config.loss_fn.ratio_clip_c) == (0.28, 10)
    assert config.ppo.reward_scaling.target_min == -1.0
    assert config.value.model_name == config.value.tokenizer.name == "models/qwen"
    assert config.value.optimizer.kwargs["lr"] == 1e-5
    assert (config.value.train_global_batch_size, config.value.train_micro_batch_size) == (512, 4)
    assert (config.policy.sequence_packing.enabled, config.value.sequence_packing.enabled) == (True, False)
    assert config.value.sequence_packing.train_mb_tokens == 16384 * 4
    assert config.value.tensor_parallel_size == 1
    assert config.value.has_scalar_head
    assert not config.policy.has_scalar_head
    assert any("value.megatron_cfg.*" in notice for notice in loaded.notices)


def test_value_settings_in_upstreams_spelling(tmp_path: Path) -> None:
    overrides = [
        "value.megatron_cfg.enabled=true",
        "value.dtensor_cfg.enabled=false",
        "value.megatron_cfg.optimizer.adam_beta2=0.95",
        "value.megatron_cfg.activation_checkpointing=true",
        "policy.dtensor_cfg.lora_cfg.enabled=true",
    ]
    config = load("ppo", save(nemo_rl_config("ppo"), tmp_path), overrides).config
    kwargs = config.value.optimizer.kwargs
    assert (kwargs["lr"], kwargs["betas"], kwargs["weight_decay"]) == (2e-6, [0.9, 0.95], 0.1)
    assert config.value.scheduler[0].kwargs["total_iters"] == 10
    assert (config.value.activation_checkpointing, config.policy.activation_checkpointing) == (True, False)
    assert (config.policy.optimizer.kwargs["lr"], config.policy.lora.enabled) == (1e-6, True)
    assert not config.value.lora.enabled


def test_distillation_values(tmp_path: Path) -> None:
    loaded = load("distill", save(nemo_rl_config("distill"), tmp_path), [])
    config = loaded.config
    assert (config.loss_fn.kl_type, config.loss_fn.mixed_kl_weight, config.loss_fn.zero_outside_topk) == (
        *("mixed", 0.5),
        False,
    )
    section = config.distillation
    assert (section.topk_logits_k, section.num_prompts_per_step, section.on_policy_fraction) == (64, 128, 1.0)
    assert section.val_num_generations_per_prompt == 16  # data.validation.repeat there
    assert section.updates_per_rollout == 1
    assert config.policy.train_global_batch_size == 64
    teacher = config.teacher
    assert (teacher.model_name, teacher.tokenizer.name) == ("models/qwen", "models/qwen")
    assert (teacher.precision, teacher.max_total_sequence_length, teacher.logprob_batch_size) == (
        *("bfloat16", 8192),
        1,
    )
    assert teacher.dynamic_batching.enabled
    assert teacher.dynamic_batching.logprob_mb_tokens == 8192
    assert config.logger.wandb.name == "distillation-train.jsonl-models/qwen-models/qwen-small-mixed-64"
    assert [f.name for f in config.rewards.functions] == ["math"]
    said = " ".join(loaded.notices)
    assert "the teacher is not trained" in said
    assert "the teacher does not generate" in said
    placed = teacher.as_model_config(config.policy)
    assert (
        placed.tensor_parallel_size == config.policy.tensor_parallel_size == 2
    )  # the teacher's own 4 is ignored
    assert placed.model_name == "models/qwen"
    assert not placed.lora.enabled


def test_dpo_values(tmp_path: Path) -> None:
    config = load("dpo", save(nemo_rl_config("dpo"), tmp_path), []).config
    assert (config.dpo.reference_policy_kl_penalty, config.dpo.preference_loss) == (0.05, {"sigmoid": 1.0})
    assert (config.dpo.preference_loss_weight, config.dpo.sft_loss_weight) == (1, 0)
    assert config.dpo.sft_average_log_probs is False
    assert (config.policy.train_global_batch_size, config.policy.train_micro_batch_size) == (128, 2)
    assert config.policy.logprob_batch_size == 1  # dpo.val_micro_batch_size
    assert config.checkpointing.metric_name == "val:val_loss"  # val:validation-default_loss there
    assert config.data.train[0].dataset_name == "HelpSteer3"


@pytest.mark.parametrize("command", ["dpo", "rm"])
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("val:validation-default_accuracy", "val:val_reward_accuracy"),
        ("val:accuracy", "val:reward_accuracy"),
        ("train:accuracy", "train:reward_accuracy"),
        ("val:reward_margin", "val:reward_margin"),
    ],
)
def test_a_metric_of_pairs_may_have_upstreams_name(command: str, theirs: str, ours: str) -> None:
    config = load(command, None, [f"checkpointing.metric_name={theirs}"]).config
    assert config.checkpointing.metric_name == ours


def test_sft_values(tmp_path: Path) -> None:
    config = load("sft", save(nemo_rl_config("sft"), tmp_path), []).config
    assert config.sft.max_num_steps == 60
    assert config.logger.wandb.name == "sft-dev-train.jsonl"
    assert config.policy.optimizer.kwargs["foreach"] is False
    assert config.data.train[0].split == "train"


def test_rm_values(tmp_path: Path) -> None:
    loaded = load("rm", save(nemo_rl_config("rm"), tmp_path), [])
    config = loaded.config
    assert config.rm.reward_model_type == "bradley_terry"
    assert config.rm.center_rewards_coefficient is None
    assert config.rm.val_period == config.checkpointing.save_period == 16
    assert config.policy.logprob_batch_size == 1
    assert config.policy.optimizer.kwargs["lr"] == 2e-6
    assert config.checkpointing.metric_name == "val:val_loss"
    assert config.policy.has_scalar_head


def test_a_regression_head_in_upstreams_spelling(tmp_path: Path) -> None:
    path = save(nemo_rl_config("rm"), tmp_path)
    config = load("rm", path, ["policy.reward_model_cfg.reward_model_type=regression"]).config
    assert config.rm.reward_model_type == "regression"
    with pytest.raises(ConfigError, match=r"policy\.reward_model_cfg\.enabled.*hone rm"):
        load("rm", path, ["policy.reward_model_cfg.enabled=false"])


def test_a_command_line_in_other_spellings_wins_over_the_file(tmp_path: Path) -> None:
    overrides = [
        "trainer.max_epochs=3",
        "model.tensor_model_parallel_size=2",
        "policy.max_total_sequence_length=64",
    ]
    config = load("sft", save(nemo_rl_config("sft"), tmp_path), overrides).config
    assert config.sft.max_num_epochs == 3
    assert config.policy.tensor_parallel_size == 2
    assert config.data.max_input_seq_length == 64


def test_megatron_settings_count_when_megatron_is_on(tmp_path: Path) -> None:
    overrides = [
        "policy.megatron_cfg.enabled=true",
        "policy.dtensor_cfg.enabled=false",
        "policy.megatron_cfg.tensor_model_parallel_size=4",
        "policy.megatron_cfg.optimizer.lr=1e-5",
        "policy.megatron_cfg.fp8_cfg.enabled=false",
    ]
    config = load("sft", save(nemo_rl_config("sft"), tmp_path), overrides).config
    assert config.policy.tensor_parallel_size == 4
    assert config.policy.optimizer.kwargs["lr"] == 1e-5
    assert config.policy.optimizer.kwargs["betas"] == [0.9, 0.98]
    assert [phase.milestones for phase in config.policy.scheduler] == [None, None, [50]]
    assert config.policy.scheduler[0].kwargs["start_factor"] == pytest.approx(4.9999e-06 / 1e-5)
    assert config.policy.scheduler[0].kwargs["total_iters"] == 50


REFUSED: list[tuple[str, list[tuple[str, str]]]] = [
    (
        "grpo",
        [
            ("policy.draft.enabled=true", "draft model"),
            ("grpo.batch_multiplier=2", "set it to 1, or grpo.use_dynamic_sampling to true"),
            ("grpo.seq_logprob_error_threshold=2.0", "set it to null"),
            ("grpo.invalid_tool_call_advantage=-1.0", "set it to null"),
            ("grpo.malformed_thinking_advantage=-1.0", "set it to null"),
            ("reward_penalties.penalize_empty_final_answer=true", "set it to false"),
            ("reward_penalties.token_ids=[1]", "reward function"),
            ("data_plane.enabled=true", "set it to false"),
            ("policy.generation.vllm_cfg.kv_cache_dtype=fp8", "set it to auto"),
            ("policy.generation.vllm_cfg.precision=fp8", "policy.precision"),
            ("policy.generation.vllm_cfg.max_model_len=99", "policy.max_total_sequence_length"),
            ("policy.dtensor_cfg.custom_parallel_plan=my.plan", "set it to null"),
            (
                "policy.dtensor_cfg.automodel_kwargs={use_liger_kernel: true}",
                "loads models with transformers",
            ),
            ("policy.offload_optimizer_for_logprob=true", "policy.cpu_offload"),
            ("env.math.math_verify_impl=my_verify", "math-verify"),
            ("data.use_multiple_dataloader=true", "set it to false"),
            ("data.default.processor=my_processor", "remove it"),
            ("data.train.processor=my_processor", "remove it"),
            ("logger.swanlab_enabled=true", "SwanLab"),
            ("checkpointing.save_consolidated=true", "hone convert"),
            ("grpo.max_rollout_turns=4", "needs an environment"),
        ],
    ),
    (
        "ppo",
        [
            ("ppo.batch_multiplier=2", "set it to 1, or ppo.use_dynamic_sampling to true"),
            ("ppo.seq_logprob_error_threshold=2.0", "set it to null"),
            ("ppo.max_rollout_turns=4", "needs an environment"),
            ("value.reward_model_cfg.enabled=false", "set it to true"),
            ("value.reward_model_cfg.reward_model_type=bradley_terry", "set it to regression"),
            ("value.dtensor_cfg.custom_parallel_plan=my.plan", "set it to null"),
            ("value.sequence_packing.microbatch_order=random", "packer"),
        ],
    ),
    (
        "distill",
        [
            ("teacher.generation.temperature=0.5", "compared at loss_fn.temperature"),
            ("teacher.dtensor_cfg.cpu_offload=true", "policy.cpu_offload"),
            ("teacher.dtensor_cfg.custom_parallel_plan=my.plan", "set it to null"),
            ("teacher.megatron_cfg.fp8_cfg.enabled=true", "teacher.precision"),
            ("distillation.max_rollout_turns=4", "no environments"),
        ],
    ),
    (
        "sft",
        [
            ("policy.sequence_packing.microbatch_order=random", "packer"),
            ("policy.megatron_cfg.expert_model_parallel_size=2", "set it to 1"),
            ("policy.megatron_cfg.fp8_cfg.enabled=true", "FP8"),
            ("policy.megatron_cfg.optimizer.optimizer_cpu_offload=true", "policy.cpu_offload"),
        ],
    ),
    (
        "eval",
        [
            ("generation.vllm_cfg.pipeline_parallel_size=2", "set it to 1"),
            ("generation.colocated.enabled=false", "set it to true"),
            ("data.processor=my_processor", "remove it"),
        ],
    ),
]


@pytest.mark.parametrize(("kind", "refused"), REFUSED)
def test_each_active_key_that_is_unsupported_is_refused_by_name(
    kind: Any, refused: list[tuple[str, str]], tmp_path: Path
) -> None:
    switch = ["policy.megatron_cfg.enabled=true"] if kind == "sft" else []
    with pytest.raises(ConfigError) as caught:
        load(kind, save(nemo_rl_config(kind), tmp_path), switch + [override for override, _ in refused])
    lines = str(caught.value).splitlines()
    for override, reason in refused:
        key = override.partition("=")[0]
        assert [line for line in lines if key in line and reason in line], (key, lines)
    assert len(lines) == len(refused) + 1


@pytest.mark.parametrize(
    ("kind", "override", "said"),
    [
        (
            "grpo",
            "grpo.adv_estimator.name=gpo",
            "expected 'grpo', 'rloo', 'reinforce_plus_plus', 'gdpo' or 'maxrl'",
        ),
        ("ppo", "ppo.adv_estimator.name=vtrace", "expected 'gae', 'grpo', 'rloo' or 'reinforce_plus_plus'"),
        ("ppo", "value.dtensor_cfg.tensor_parallel_size=2", r"value\.tensor_parallel_size=2 and policy\."),
        (
            "ppo",
            "loss_fn.reference_policy_kl_penalty=0.1",
            "skip_reference_policy_logprobs_calculation=true: the",
        ),
        ("distill", "loss_fn.kl_type=backward", "expected 'forward', 'reverse', 'mixed' or 'jsd'"),
        (
            "distill",
            "loss_fn.jsd_beta=0.1",
            "jsd_beta=0.1 does nothing for loss_fn.kl_type=mixed: it is for jsd",
        ),
        ("distill", "teacher.max_total_sequence_length=4096", "the teacher reads the student's sequences"),
        ("distill", "teacher.model_name=models/qwen-small", "is the student itself"),
        ("distill", "teacher.learning_rate=1", r"teacher\.learning_rate"),
        ("ppo", "value.train_micro_batch_size=3", r"value\.train_global_batch_size=512 is not a multiple"),
    ],
)
def test_refused_by_itself(kind: Any, override: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        load(kind, save(nemo_rl_config(kind), tmp_path), [override])


def test_an_unknown_key_below_a_section_that_is_off_is_inert_and_below_one_that_is_on_an_error(
    tmp_path: Path,
) -> None:
    path = save(nemo_rl_config("sft"), tmp_path)
    load("sft", path, ["+policy.megatron_cfg.brand_new=1"])
    with pytest.raises(ConfigError, match=r"policy\.dtensor_cfg\.brand_new"):
        load("sft", path, ["+policy.dtensor_cfg.brand_new=1"])


SAMPLE = """
policy:
  model_name: models/llama
  tokenizer: {name: "${policy.model_name}", use_fastokens: false}
  max_total_sequence_length: 2048
  train_micro_batch_size: 2
  precision: bfloat16
  dtensor_cfg: {_v2: true, enabled: true, tensor_parallel_size: 2, lora_cfg: {enabled: false, dim: 8}}
  megatron_cfg: {enabled: false, tensor_model_parallel_size: 8, pipeline_dtype: "${policy.precision}"}
  make_sequence_length_divisible_by: ${policy.dtensor_cfg.tensor_parallel_size}
  dynamic_batching:
    enabled: true
    train_mb_tokens: ${mul:${policy.max_total_sequence_length}, ${policy.train_micro_batch_size}}
data:
  train: {dataset_name: train.jsonl}
  default: {processor: sft_processor}
logger: {wandb: {name: "sft-${data.train.dataset_name}"}}
"""


def test_a_small_sample_in_upstreams_style(tmp_path: Path) -> None:
    path = tmp_path / "sample.yaml"
    path.write_text(SAMPLE)
    config = load("sft", path, []).config
    assert config.policy.tensor_parallel_size == 2
    assert config.policy.dynamic_batching.train_mb_tokens == 4096
    assert config.policy.tokenizer.name == "models/llama"
    assert config.logger.wandb.name == "sft-train.jsonl"


def test_a_file_of_another_method_is_named_as_that(tmp_path: Path) -> None:
    (tmp_path / "dpo.yaml").write_text("dpo: {beta: 0.1}\npolicy: {no_such_key: 1}\n")
    with pytest.raises(
        ConfigError, match=r"dpo\.yaml is for DPO \(its section `dpo`\): run `hone dpo`"
    ) as caught:
        load("sft", tmp_path / "dpo.yaml", [])
    assert "no_such_key" not in str(caught.value)
