"""The commands of the tutorials that users come from, as they are typed, with the names of what is on this machine.

What they say about a cluster describes where the run is meant for: here one process does it, and says so.
"""

from __future__ import annotations

import json

import pytest
from processes import REPOSITORY as ROOT
from processes import command, hone, metric_rows, steps_of, succeeded, sums, workplace, write_rows

EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model in ./model, rows in train.jsonl; inputs and outputs in ./mine."""
    place = workplace(tmp_path_factory.mktemp("seeds"), "qwen3")
    (place / "mine").mkdir()
    rows = [{"input": row["prompt"], "output": row["completion"]} for row in sums(40)]
    write_rows(place / "mine" / "train.jsonl", rows)
    problems = [{"problem": row["prompt"], "answer": row["answer"]} for row in sums(3, seed=9)]
    write_rows(place / "math500.jsonl", problems)
    return place


TRAINED = (
    "policy.model_name=model",
    "policy.train_global_batch_size=32",
    "sft.val_global_batch_size=32",
    "cluster.gpus_per_node=8",
    "checkpointing.checkpoint_dir=results/sft_llama8b",
    "logger.wandb_enabled=False",
    "logger.wandb.name=sft-llama8b-tutorial",
    "data.train.dataset_name=train.jsonl",
)


def test_sft_of_a_model_for_eight_gpus(place):
    ended = succeeded(hone("sft", *TRAINED, cwd=place))
    assert "cluster.gpus_per_node=8: runs in one process here" in ended.out
    assert "done at step 2/2" in ended.out  # 64 rows


@pytest.mark.slow
def test_the_tutorial_from_sft_to_evaluation_as_typed(place):
    """run_sft.py, convert_dcp_to_hf.py, run_eval.py: each with the arguments that the tutorial gives it."""
    results = "results/typed"
    sft = [argument.replace("results/sft_llama8b", results) for argument in TRAINED]
    succeeded(command(str(EXAMPLES / "run_sft.py"), *sft, cwd=place))
    step = f"{results}/step_{steps_of(place / results)[-1]}"
    succeeded(
        command(
            str(EXAMPLES / "converters/convert_dcp_to_hf.py"),
            *("--config", f"{step}/config.yaml"),
            *("--dcp-ckpt-path", f"{step}/policy/weights/"),
            *("--hf-ckpt-path", f"{results}/hf"),
            cwd=place,
        )
    )
    evaluate = (
        f"generation.model_name={place}/{results}/hf",
        "generation.temperature=0.7",
        "generation.top_p=0.9",
        "data.dataset_name=math500.jsonl",
        "eval.num_tests_per_prompt=16",
        "cluster.gpus_per_node=8",
        "generation.max_new_tokens=8",
    )
    ended = succeeded(command(str(EXAMPLES / "run_eval.py"), *evaluate, cwd=place))
    assert "pass@1 = " in ended.out
    assert "on 3 prompts x 16" in ended.out
    assert "answers are checked as mathematics" in ended.out


@pytest.mark.slow
def test_a_reward_model_and_its_evaluation_as_typed(place):
    """run_rm.py and eval_rm.py; data and model have other names here."""
    run = "results/rm_llama1b"
    train = (
        "policy.model_name=model",
        "data.train.dataset_name=pairs.jsonl",
        "cluster.gpus_per_node=8",
        f"checkpointing.checkpoint_dir={run}",
        "logger.wandb_enabled=False",
        "logger.wandb.name=rm-llama1b-tutorial",
    )
    succeeded(command(str(EXAMPLES / "run_rm.py"), *train, cwd=place))
    evaluate = ("--model_path", run, "--test_dataset", "held_out_pairs.jsonl")
    ended = succeeded(command(str(EXAMPLES / "eval_rm.py"), *evaluate, cwd=place))
    assert "on 8 pairs of held_out_pairs.jsonl" in ended.out
    assert (place / "results" / "eval_rm" / "reliability.png").is_file()


@pytest.mark.slow
def test_the_benchmark_with_a_config_file(place):
    ended = succeeded(
        hone(
            "eval",
            *("--config", str(EXAMPLES / "configs/evals/math_eval.yaml")),
            "generation.model_name=model",
            "generation.temperature=0.6",
            "generation.top_p=0.95",
            "generation.vllm_cfg.max_model_len=32768",
            "data.dataset_name=math500.jsonl",
            "eval.num_tests_per_prompt=16",
            "cluster.gpus_per_node=8",
            "generation.max_new_tokens=8",
            "eval.save_path=benchmark",
            cwd=place,
        )
    )
    assert "on 3 prompts x 16" in ended.out
    assert json.loads((place / "benchmark/report.json").read_text())["tests_per_prompt"] == 16


def test_a_custom_dataset(place):
    (place / "custom_sft_config.yaml").write_text(
        "data:\n"
        '  dataset_name: "custom_dataset"\n'
        f'  dataset_path: "{place}/mine"\n'
        '  prompt_template: "Human: {input}\\n\\nAssistant: {output}"\n'
        "\nsft:\n  max_epochs: 2\n  save_interval: 500\n  val_check_interval: 100\n"
    )
    argv = ("sft", "--config", "custom_sft_config.yaml", "policy.model_name=model")
    succeeded(hone(*argv, "checkpointing.checkpoint_dir=custom", cwd=place))
    assert [row["step"] for row in metric_rows(place / "custom")][-1] == "3"  # 2 x 40 rows by 32


MORE = {
    "two_nodes": (
        *("--config", str(EXAMPLES / "configs/sft.yaml")),
        "cluster.num_nodes=2",
        "cluster.gpus_per_node=8",
        "logger.wandb_enabled=False",
        "logger.wandb.name='sft-llama8b-multinode'",
    ),
    "memory": (
        "model.activation_checkpointing=true",
        "model.sequence_parallel=true",
        "model.tensor_model_parallel_size=2",
        "trainer.precision=16-mixed",
    ),
    "batches": ("model.micro_batch_size=4", "trainer.accumulate_grad_batches=8"),
    "debug": ("trainer.limit_train_batches=10", "trainer.limit_val_batches=5", "trainer.max_epochs=1"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_further_commands_of_the_tutorial(name, place):
    ended = succeeded(
        hone(
            "sft",
            *MORE[name],
            "policy.model_name=model",
            "data.train.dataset_name=train.jsonl",
            f"checkpointing.checkpoint_dir=results/{name}",
            cwd=place,
        )
    )
    assert "done at step" in ended.out
    assert ("runs in one process here" in ended.out) == (name in ("two_nodes", "memory"))


@pytest.mark.slow
def test_grpo_with_the_examples_config(place):
    ended = succeeded(
        command(
            str(EXAMPLES / "run_grpo.py"),
            *("--config", str(EXAMPLES / "configs/grpo_math_1B.yaml")),
            "policy.model_name=model",
            "data.train.dataset_name=math500.jsonl",
            "data.default.env_name=math",
            "grpo.num_prompts_per_step=2",
            "grpo.num_generations_per_prompt=4",
            "policy.train_global_batch_size=8",
            "policy.generation.max_new_tokens=8",
            "grpo.max_num_steps=2",
            "cluster.gpus_per_node=8",
            "checkpointing.checkpoint_dir=results/grpo",
            cwd=place,
        )
    )
    assert "done at step 2/2" in ended.out
    assert "cluster.gpus_per_node=8: runs in one process here" in ended.out
