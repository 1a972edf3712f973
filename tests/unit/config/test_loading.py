"""Layers, inheritance, interpolation, overrides, spellings, and what is said about mistakes."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hone.config import load
from hone.config.keys import all_keys
from hone.config.reference_table import description, markdown_table
from hone.config.resume_compat import changed_keys
from hone.config.schema import ROOTS
from hone.config.schema.base import fill_derived
from hone.config.schema.sft import SFTConfig
from hone.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[3] / "examples" / "configs"
OWN = ["policy.model_name=models/mine", "data.train.dataset_name=train.jsonl"]


def problem(kind: Any, overrides: list[str], path: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(kind, path, overrides)
    return str(caught.value)


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# Schema


@pytest.mark.parametrize("kind", ["sft", "grpo", "ppo", "eval"])
def test_every_key_is_documented(kind: str) -> None:
    undocumented = [
        key for key, _, owner in all_keys(ROOTS[kind]) if not description(owner, key.rpartition(".")[2])
    ]
    assert undocumented in ([], ["data.default"])
    table = markdown_table(kind)
    assert "`cluster.gpus_per_node` | `1` | GPUs per machine" in table
    assert all(f"| `{key}` |" in table for key, _, _ in all_keys(ROOTS[kind]))


def test_import_is_quick_and_without_heavy_libraries() -> None:
    code = "import sys, hone.config; sys.exit(any(n in sys.modules for n in ('torch', 'transformers', 'omegaconf')))"
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0


@pytest.mark.parametrize("kind", ["sft", "grpo", "eval"])
def test_a_root_built_directly_has_its_derived_values(kind: str) -> None:
    config: Any = ROOTS[kind]()
    length = config.generation.max_model_len if kind == "eval" else config.policy.max_total_sequence_length
    assert config.data.max_input_seq_length == length


# Layers


def test_the_recipe_lies_between_the_schema_and_the_user() -> None:
    config = load("sft", None, ["policy.train_micro_batch_size=4"]).config
    assert config.policy.precision == "float32"  # recipe
    assert config.policy.train_micro_batch_size == 4  # user
    assert config.policy.optimizer.kwargs == {
        "lr": 0.002,
        "weight_decay": 0.1,
        "betas": [0.9, 0.98],
        "eps": 1e-5,
    }


def test_another_model_gets_no_recipe() -> None:
    config = load("sft", None, OWN).config
    assert config.policy.precision == "bfloat16"
    assert config.sft.max_num_steps is None
    assert config.data.validation is None


def test_the_embedded_model_on_data_of_ones_own_keeps_none_of_the_embedded_data() -> None:
    config = load("sft", None, ["data.train.dataset_name=mine.jsonl"]).config
    assert config.data.train[0].split is None
    assert config.data.validation is None
    assert config.policy.precision == "float32"


@pytest.mark.parametrize("key", ["policy.model_name", "model.name", "model.restore_from_path"])
def test_a_model_of_ones_own_without_data_gets_the_embedded_data_and_nothing_else(key: str) -> None:
    loaded = load("sft", None, [f"{key}=models/mine"])
    assert loaded.config.data.train[0].dataset_name == "hone/word-problems"
    assert loaded.config.policy.optimizer.kwargs["lr"] == 5.0e-6
    assert any("hone/word-problems" in notice for notice in loaded.notices)


def test_data_settings_without_a_dataset_are_an_error() -> None:
    assert "data.train.dataset_name" in problem(
        "sft", ["policy.model_name=models/mine", "data.train.split=train"]
    )
    assert "data.dataset_name" in problem("eval", ["generation.model_name=models/mine", "data.split=test"])


def test_checkpoints_are_ranked_by_validation_only_where_there_is_some() -> None:
    assert load("sft", None, OWN).config.checkpointing.metric_name is None
    assert load("sft", None, []).config.checkpointing.metric_name == "val:val_loss"
    message = problem("sft", [*OWN, "checkpointing.metric_name=val:val_loss"])
    assert "data.validation.dataset_name" in message


def test_defaults_are_inherited_relative_to_the_file(tmp_path: Path) -> None:
    write(tmp_path, "base/root.yaml", "sft: {seed: 1, val_period: 5}\npolicy: {precision: float16}\n")
    write(tmp_path, "base/second.yaml", "sft: {seed: 2}\n")
    path = write(
        tmp_path,
        "own/mine.yaml",
        "defaults: [../base/root.yaml, ../base/second.yaml]\nsft: {val_period: 7}\n",
    )
    config = load("sft", path, []).config
    assert (config.sft.seed, config.sft.val_period, config.policy.precision) == (2, 7, "float16")


def test_a_circle_of_defaults_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "defaults: b.yaml\n")
    write(tmp_path, "b.yaml", "defaults: a.yaml\n")
    message = problem("sft", [], path)
    assert "circle" in message
    assert "b.yaml" in message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "none.yaml: no such configuration file" in problem("sft", [], tmp_path / "none.yaml")
    path = write(tmp_path, "orphan.yaml", "defaults: gone.yaml\n")
    assert "defaults names gone.yaml" in problem("sft", [], path)
    path = write(tmp_path, "broken.yaml", "sft:\n  seed: [1,\n")
    assert "broken.yaml, line 3: invalid YAML" in problem("sft", [], path)
    path = write(tmp_path, "twice.yaml", "sft:\n  seed: 1\n  seed: 2\n")
    assert "line 3: invalid YAML: seed is given twice" in problem("sft", [], path)
    path = write(tmp_path, "list.yaml", "- 1\n")
    assert "expected a mapping" in problem("sft", [], path)
    path = write(tmp_path, "job.yaml", "apiVersion: batch/v1\nkind: Job\n")
    assert "Kubernetes resource (Job)" in problem("sft", [], path)


# Interpolation


def test_interpolation_sees_all_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN_NAME", "night")
    text = """
policy:
  train_global_batch_size: ${mul:${policy.train_micro_batch_size},4}
  max_total_sequence_length: ${div:${add:1000,24},2}
  tokenizer: {name: "${..model_name}-tok"}
sft: {val_period: "${max:3,${.seed}}", seed: 9}
checkpointing: {checkpoint_dir: "runs/${oc.env:RUN_NAME}"}
logger: {wandb: {name: "${RUN_NAME}-${checkpointing.keep_top_k}"}}
"""
    config = load("sft", write(tmp_path, "c.yaml", text), ["policy.train_micro_batch_size=8"]).config
    assert config.policy.train_global_batch_size == 32
    assert config.policy.max_total_sequence_length == 512
    assert config.policy.tokenizer.name == "hone/tiny-tok"
    assert config.sft.val_period == 9
    assert config.checkpointing.checkpoint_dir == "runs/night"
    assert config.logger.wandb.name == "night-3"  # the schema's default


def test_derived_values_follow_the_user() -> None:
    sizes = ["policy.train_micro_batch_size=1", "policy.max_total_sequence_length=100"]
    config = load("grpo", None, [*sizes, "policy.generation.temperature=0.7"]).config
    assert config.policy.generation.max_new_tokens == 100
    assert config.policy.generation.val_temperature == 0.7
    assert config.policy.dynamic_batching.train_mb_tokens == 100
    assert config.policy.logprob_batch_size == 1
    sized = ["policy.logprob_batch_size=null", "policy.train_micro_batch_size=4"]
    again = load("grpo", None, sized).config
    assert again.policy.logprob_batch_size == 4


def test_what_is_left_open_is_chosen_later_and_what_follows_it_waits(tmp_path: Path) -> None:
    text = """\
policy:
  model_name: somewhere/model
  train_global_batch_size: 6
  max_total_sequence_length: 100
  dynamic_batching: {enabled: true}
  sequence_packing:
    train_mb_tokens: ${mul:${policy.max_total_sequence_length}, ${policy.train_micro_batch_size}}
"""
    path = write(tmp_path, "open.yaml", text)
    left = load("sft", path, ["data.train.dataset_name=x.jsonl"])
    policy = left.config.policy
    assert policy.train_micro_batch_size is policy.logprob_batch_size is None
    assert policy.activation_checkpointing is policy.tensor_parallel_size is policy.cpu_offload is None
    assert policy.dynamic_batching.train_mb_tokens is policy.sequence_packing.train_mb_tokens is None
    again = load("sft", write(tmp_path, "again.yaml", left.to_yaml()), [])
    assert again.config == left.config
    policy.train_micro_batch_size = 3
    fill_derived(left.config)
    assert policy.logprob_batch_size == 3
    assert policy.dynamic_batching.train_mb_tokens == policy.sequence_packing.train_mb_tokens == 300


def test_interpolation_that_cannot_be_resolved() -> None:
    message = problem("sft", ["logger.wandb.name=${policy.nothing}"])
    assert "logger.wandb.name" in message
    assert "there is no key policy.nothing" in message
    message = problem("sft", ["checkpointing.checkpoint_dir=runs/${JOB_NAME_NOT_SET}"])
    assert "no such environment variable" in message
    assert "refers to itself" in problem("sft", ["sft.seed=${sft.seed}"])
    assert "sft.seed" in problem("sft", ["sft.seed=${div:1,0}"])


def test_interpolation_may_name_a_spelling(tmp_path: Path) -> None:
    theirs = "${policy.dtensor_cfg.tensor_parallel_size}"
    text = f"policy: {{tensor_parallel_size: 4, train_micro_batch_size: '{theirs}'}}"
    assert load("sft", write(tmp_path, "c.yaml", text), []).config.policy.train_micro_batch_size == 4


# Overrides


def test_values_of_overrides() -> None:
    config = load(
        "grpo",
        None,
        [
            "policy.optimizer.kwargs.lr=1e-5",
            "policy.optimizer.kwargs.betas=[0.9,0.95]",
            "+policy.optimizer.kwargs.fused=true",
            "++policy.hf_config_overrides={rope_theta:10000,nested:{a: null}}",
            "policy.generation.stop_strings=['</answer>', \"a, b\"]",
            'logger.wandb.name="a=b, c"',
            "data.default.prompt_template=Question: {question}\nAnswer:",
            "data.default.input_key=",
            "data.validation.prompt_template={q}",
            "policy.generation.top_k=-1",
            "checkpointing.checkpoint_must_save_by=1:03:45:00",
        ],
    ).config
    assert config.policy.optimizer.kwargs["lr"] == 1e-5
    assert config.policy.optimizer.kwargs["betas"] == [0.9, 0.95]
    assert config.policy.optimizer.kwargs["fused"] is True
    assert config.policy.hf_config_overrides == {"rope_theta": 10000, "nested": {"a": None}}
    assert config.policy.generation.stop_strings == ["</answer>", "a, b"]
    assert config.logger.wandb.name == "a=b, c"
    assert config.data.train[0].prompt_template == "Question: {question}\nAnswer:"
    assert config.data.validation[0].prompt_template == "{q}"
    assert config.data.train[0].input_key == ""
    assert config.policy.generation.top_k is None
    assert config.checkpointing.checkpoint_must_save_by == "1:03:45:00"


def test_the_last_of_several_overrides_wins() -> None:
    assert load("sft", None, ["sft.seed=1", "sft.seed=2"]).config.sft.seed == 2


def test_removal_brings_the_schemas_default_back() -> None:
    config = load(
        "sft", None, ["~sft.max_num_steps", "~policy.optimizer.kwargs.betas", "~data.validation"]
    ).config
    assert config.sft.max_num_steps is None  # the recipe has 300
    assert "betas" not in config.policy.optimizer.kwargs
    assert config.data.validation is None
    assert "did you mean sft.seed" in problem("sft", ["~sft.sed"])


def test_lists_of_datasets(tmp_path: Path) -> None:
    text = """
data:
  default: {prompt_file: p.txt, output_key: solution}
  train:
    - {dataset_name: a.jsonl}
    - {data_path: b.jsonl, weight: 3, output_key: answer, processor: sft_processor}
"""
    path = write(tmp_path, "c.yaml", text)
    train = load("sft", path, ["data.train.0.weight=2"]).config.data.train
    assert [(e.dataset_name, e.weight, e.prompt_file, e.output_key) for e in train] == [
        ("a.jsonl", 2.0, "p.txt", "solution"),
        ("b.jsonl", 3.0, "p.txt", "answer"),
    ]
    assert "data.train has 2 entries" in problem("sft", ["data.train.2.weight=2"], path)
    assert "say which" in problem("sft", ["data.train.weight=2"], path)
    assert "did you mean data.train.1.weight" in problem("sft", ["data.train.1.wieght=2"], path)
    assert "data.train.1.weight=0: expected more than 0" in problem("sft", ["data.train.1.weight=0"], path)
    one = write(tmp_path, "one.yaml", "data: {train: [{dataset_name: a.jsonl}]}")
    assert load("sft", one, ["data.train.limit=5"]).config.data.train[0].limit == 5


@pytest.mark.parametrize("text", ["sft.seed", "--sft.seed=1", "sft seed=1", "=3", "sft.seed=[1"])
def test_an_override_that_cannot_be_read(text: str) -> None:
    assert "cannot read" in problem("sft", [text])


def test_another_optimizer_does_not_get_adams_arguments() -> None:
    config = load(
        "sft", None, ["policy.optimizer.name=torch.optim.SGD", "policy.optimizer.kwargs.momentum=0.9"]
    ).config
    assert config.policy.optimizer.kwargs == {"lr": 0.002, "weight_decay": 0.1, "momentum": 0.9}


# Spellings


def test_two_spellings_with_different_values(tmp_path: Path) -> None:
    message = problem("sft", ["trainer.max_epochs=2", "sft.max_num_epochs=3"])
    assert "trainer.max_epochs=2" in message
    assert "sft.max_num_epochs=3" in message
    load("sft", None, ["trainer.max_epochs=2", "sft.max_num_epochs=2"])
    path = write(tmp_path, "c.yaml", "sft: {max_num_epochs: 3}\n")
    assert load("sft", path, ["trainer.max_epochs=2"]).config.sft.max_num_epochs == 2
    path = write(tmp_path, "c.yaml", "trainer: {max_epochs: 3}\n")
    assert load("sft", path, ["sft.max_num_epochs=2"]).config.sft.max_num_epochs == 2


def test_notices_name_both_spellings() -> None:
    assert (
        "read trainer.max_epochs as sft.max_num_epochs" in load("sft", None, ["trainer.max_epochs=2"]).notices
    )


@pytest.mark.parametrize(
    ("written", "precision"),
    [
        ("32", "float32"),
        ("bf16", "bfloat16"),
        ("bf16-mixed", "bfloat16"),
        ("16-mixed", "float16"),
        ("16", "float16"),
    ],
)
def test_precision(written: str, precision: str) -> None:
    assert load("sft", None, [f"trainer.precision={written}"]).config.policy.precision == precision


def test_a_value_that_has_no_translation() -> None:
    assert "trainer.precision=8: expected one of" in problem("sft", ["trainer.precision=8"])
    assert "share of an epoch" in problem("sft", ["trainer.val_check_interval=0.25"])
    assert "only LoRA" in problem("sft", ["model.peft.peft_scheme=ptuning"])
    assert "checkpoint.save_last=false" in problem("sft", ["checkpoint.save_last=false"])
    assert "this is `hone sft`" in problem("sft", ["training.method=GRPO"])


def test_accelerator_cpu_means_no_gpu() -> None:
    assert (
        load("sft", None, ["trainer.accelerator=cpu", "trainer.devices=1"]).config.cluster.gpus_per_node == 0
    )
    assert load("sft", None, ["trainer.accelerator=gpu"]).config.cluster.gpus_per_node == 1


def test_accumulation_follows_a_given_global_batch() -> None:
    overrides = ["trainer.accumulate_grad_batches=4", "policy.train_global_batch_size=64"]
    assert load("sft", None, overrides).config.policy.train_global_batch_size == 64
    overrides = [
        "trainer.accumulate_grad_batches=4",
        "cluster.gpus_per_node=8",
        "policy.tensor_parallel_size=2",
    ]
    assert load("sft", None, overrides).config.policy.train_global_batch_size == 8 * 4 * 4


def test_limits_on_batches_for_grpo() -> None:
    overrides = ["trainer.limit_train_batches=10", "trainer.max_epochs=3", "trainer.limit_val_batches=2"]
    config = load("grpo", None, overrides).config
    assert config.grpo.max_num_steps == 30
    assert config.grpo.max_val_samples == 2 * 256


# Mistakes


def test_unknown_keys() -> None:
    cases = {
        "policy.model_nam=x": "unknown key policy.model_nam: did you mean policy.model_name?",
        "polcy.model_name=x": "unknown key polcy.model_name: did you mean policy.model_name?",
        "sft.learning_rate_nothing=1": "unknown key sft.learning_rate_nothing",
        "num_generations_per_prompt=4": "did you mean grpo.num_generations_per_prompt?",
        "trainer.max_epoch=1": "did you mean trainer.max_epochs?",
        "policy.generation.temprature=1": "did you mean policy.generation.temperature?",
        "policy.dynamic_batching.enable=true": "did you mean policy.dynamic_batching.enabled?",
        "loss_fn.ratio_clip=0.2": "did you mean loss_fn.ratio_clip_",
    }
    for override, expected in cases.items():
        kind = "sft" if override.startswith(("sft", "trainer")) else "grpo"
        assert expected in problem(kind, [override])


def test_unknown_keys_in_entries_of_lists() -> None:
    message = problem("grpo", ["rewards.functions=[{name: math, wieght: 2}]"])
    assert "rewards.functions.0.wieght: did you mean rewards.functions.0.weight?" in message


def test_wrong_types_name_key_value_and_what_was_expected() -> None:
    cases = {
        "policy.train_global_batch_size=many": "policy.train_global_batch_size=many: expected a whole number",
        "policy.train_global_batch_size=1.5": "policy.train_global_batch_size=1.5: expected a whole number",
        "sft.seed=true": "sft.seed=true: expected a whole number",
        "sft.val_at_start=1": "sft.val_at_start=1: expected true or false",
        "logger.wandb.name=5": 'logger.wandb.name=5: expected text (write "5" in quotes)',
        "policy.precision=int8": "policy.precision=int8: expected 'float32', 'bfloat16' or 'float16'",
        "policy.max_grad_norm=-1": "policy.max_grad_norm=-1: expected more than 0",
        "trainer.gradient_clip_val=-1": "trainer.gradient_clip_val=-1: expected more than 0",
        "sft.seed=null": "sft.seed=null: expected a whole number",
        "policy=5": "policy=5: expected a section",
        "data.train=5": "data.train=5: expected a list",
        "policy.model_name.x=1": "policy.model_name={'x': 1}: expected text",
        "checkpointing.checkpoint_must_save_by=soon": "DAYS:HOURS:MINUTES:SECONDS",
    }
    for override, expected in cases.items():
        assert expected in problem("sft", [override]), override


def test_all_mistakes_are_reported_together() -> None:
    message = problem(
        "sft", ["policy.model_nam=x", "sft.seed=true", "trainer.precision=8", "logger.swanlab_enabled=true"]
    )
    assert message.startswith("4 problems")


# What is written down


@pytest.mark.parametrize("kind", ["sft", "grpo", "eval"])
def test_the_resolved_configuration_loads_to_an_equal_one(kind: Any, tmp_path: Path) -> None:
    overrides = ["cluster.cpu_threads=2"]
    if kind != "eval":
        overrides += [
            "logger.wandb_enabled=true",
            "logger.wandb.name='1e5'",
            r"policy.tokenizer.chat_template=a \${b} {{ c }} \\\${d}",
        ]
    loaded = load(kind, None, overrides)
    path = write(tmp_path, "resolved.yaml", loaded.to_yaml())
    assert yaml.safe_load(path.read_text()).keys() == ROOTS[kind].model_fields.keys()
    again = load(kind, path, [])
    assert again.config == loaded.config
    assert again.to_yaml() == loaded.to_yaml()
    assert again.notices == []


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS))
)
def test_every_shipped_configuration_loads(path: Path) -> None:
    kinds = {"evals": "eval", "recipes": "grpo"}
    kind: Any = kinds.get(path.parent.name, path.stem.split("_")[0])
    kind = {"distillation": "distill"}.get(kind, kind)
    loaded = load(kind, path, [])
    assert loaded.notices == []
    scored = {key: [*OWN, "data.default.env_name=math"] for key in ("grpo", "ppo", "distill")}
    own = {**dict.fromkeys(("sft", "dpo", "rm"), OWN), **scored}
    load(kind, path, own.get(kind, ["generation.model_name=m", "data.dataset_name=math500"]))


def test_a_limit_alone_is_one_of_the_data_that_comes_with_hone() -> None:
    """How much of the data is no name of any: a model of one's own gets the embedded problems, and is told."""
    loaded = load("eval", None, ["generation.model_name=my/model", "data.limit=64"])
    assert (loaded.config.data.dataset_name, loaded.config.data.limit) == ("hone/word-problems", 64)
    assert any("data.dataset_name was not given" in notice for notice in loaded.notices)
    with pytest.raises(ConfigError, match=r"data\.train\.dataset_name is not set"):
        load("sft", None, ["policy.model_name=my/model", "data.validation.dataset_name=held_out.jsonl"])


def test_a_setting_that_an_older_version_lacked_is_no_change_at_its_default() -> None:
    config = yaml.safe_load(load("sft", None, []).to_yaml())
    usual = SFTConfig().model_dump(warnings=False)
    older = copy.deepcopy(config)
    del older["policy"]["disable_dropout"]
    assert changed_keys(older, config, usual) == ([], [])
    config["policy"]["disable_dropout"] = not usual["policy"]["disable_dropout"]
    assert changed_keys(older, config, usual)[1] == [
        f"policy.disable_dropout: None -> {config['policy']['disable_dropout']}"
    ]
    config["policy"]["optimizer"]["kwargs"]["foreach"] = True  # what a class takes has no default here
    assert len(changed_keys(older, config, usual)[1]) == 2


def test_a_resumed_run_may_have_other_devices_for_vllm_but_not_other_arguments() -> None:
    old, new = ({"policy": {"generation": {"vllm_cfg": {"tensor_parallel_size": n}}}} for n in (1, 2))
    assert changed_keys(old, new, old) == (["policy.generation.vllm_cfg.tensor_parallel_size"], [])
    old, new = ({"policy": {"generation": {"vllm_kwargs": {"quantization": q}}}} for q in (None, "fp8"))
    assert len(changed_keys(old, new, old)[1]) == 1
