"""`hone plan`: arithmetic checked by hand, and what does and does not make it fail."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import tiny
from transformers import LlamaConfig

from hone.cli import main


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tiny.make_model("llama").save_pretrained(tmp_path / "model")
    tiny.make_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["plan", *arguments])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_sizes_and_batches_by_hand(capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 5)
    code, text = plan(
        capsys,
        "sft",
        f"policy.model_name={model}",
        f"data.train.dataset_name={tmp_path / 'rows.jsonl'}",
        "policy.train_global_batch_size=8",
        "policy.train_micro_batch_size=2",
        "policy.max_total_sequence_length=64",
        "policy.precision=float32",
        "cluster.gpus_per_node=0",
        "sft.max_num_steps=7",
        "checkpointing.metric_name=null",
    )
    assert code == 0
    # Embeddings and head 2 x 64 x 32; a layer: q, o 32 x 32 each, k, v 32 x 16 each, three of 32 x 48, two norms of 32;
    # two layers; the last norm.
    parameters = 2 * 64 * 32 + 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32) + 32
    assert parameters == 19_616
    assert "LlamaForCausalLM, 19.6k parameters" in text
    rows = {words[0]: " ".join(words[1:3]) for line in text.splitlines() if len(words := line.split()) > 2}
    assert rows["weights"] == rows["gradients"] == f"{4 * parameters / 1024:.1f} KiB"
    assert rows["optimizer"] == f"{8 * parameters / 1024:.1f} KiB"
    assert "one process: micro-batch 2" in text
    assert "128 tokens at once, 2 layers" in text
    assert "8 sequences per update" in text
    assert "until 7 steps or 1 epoch of the data, whichever is first" in text
    assert "5 rows" in text


def test_the_value_model_counts(capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "answer": "b"}\n' * 5)
    arguments = (
        "ppo",
        f"policy.model_name={model}",
        f"data.train.dataset_name={tmp_path / 'rows.jsonl'}",
        "rewards.functions=[{name: answer}]",
        "policy.precision=float32",
        "policy.max_total_sequence_length=64",
        "loss_fn.reference_policy_kl_penalty=0.0",
        "ppo.num_prompts_per_step=8",
        "ppo.num_generations_per_prompt=2",
        "ppo.ppo_epochs=3",
        "policy.train_global_batch_size=8",
    )
    code, text = plan(capsys, *arguments)
    assert code == 0
    # The policy's 19,616 without its head of 64 x 32, and a head of 32; weights, gradients and two states of Adam.
    parameters = 19_616 - 64 * 32 + 32
    assert "LlamaForSequenceClassification, 17.6k parameters" in text
    row = next(
        line.split() for line in text.splitlines() if line.endswith("weights, gradients and optimizer")
    )
    assert row[:4] == ["value", "model", f"{16 * parameters / 1024:.1f}", "KiB"]
    assert "8 prompts x 2 completions = 16 per step, 6 updates of 8" in text
    code, text = plan(capsys, *arguments, "ppo.adv_estimator.name=rloo")
    assert code == 0
    assert "value model" not in text


def test_the_teacher_counts(capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 5)
    arguments = (
        "distill",
        f"policy.model_name={model}",
        f"teacher.model_name={model}",
        "teacher.hf_config_overrides={num_hidden_layers: 4}",
        f"data.train.dataset_name={tmp_path / 'rows.jsonl'}",
        "policy.precision=float32",
        "policy.max_total_sequence_length=64",
        "distillation.num_prompts_per_step=8",
        "distillation.on_policy_fraction=0.25",
        "policy.train_global_batch_size=8",
    )
    code, text = plan(capsys, *arguments)
    assert code == 0
    layer = (19_616 - 2 * 64 * 32 - 32) // 2  # all but embedding, head and last norm
    parameters = 19_616 + 2 * layer
    row = next(
        line.split() for line in text.splitlines() if line.split()[:1] == ["teacher"] and "KiB" in line
    )
    assert row[1:3] == [f"{4 * parameters / 1024:.1f}", "KiB"]
    assert "mixed divergence over its 64 likeliest tokens, temperature 1" in text
    assert "learns from the student's own answers in 25% of the steps" in text
    assert "8 prompts x 1 completions = 8 per step, 1 update of 8" in text


def test_what_is_not_here_is_said_and_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = plan(
        capsys,
        "grpo",
        "policy.model_name=/nowhere/model",
        "data.train.dataset_name=/nowhere/rows.jsonl",
        "rewards.functions=[{name: answer}]",
        "cluster.num_nodes=4",
        "cluster.gpus_per_node=8",
    )
    assert code == 0
    assert "/nowhere/model: not reachable from here" in text
    assert "/nowhere/rows.jsonl: not reachable from here" in text
    assert "4 x 8 GPUs" in text
    assert "32 prompts x 16 completions = 512 per step, 1 update of 512" in text


def test_a_wrong_config_fails(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = plan(capsys, "grpo", "policy.model_nam=x", "data.train.dataset_name=y")
    assert code == 2
    assert "policy.model_name" in text
    assert text.count("error:") == 1


def test_eval_and_dry_run(capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    test = tmp_path / "test.jsonl"
    test.write_text('{"prompt": "a", "completion": "b", "answer": "b"}\n')
    code, text = plan(
        capsys,
        "eval",
        f"generation.model_name={model}",
        f"data.dataset_name={test}",
        "rewards.functions=[{name: answer}]",
        "eval.num_tests_per_prompt=16",
        "generation.temperature=0.7",
    )
    assert code == 0
    assert "16 answers for each problem" in text
    settings = [f"policy.model_name={model}", "policy.max_total_sequence_length=64"]
    data = f"data.train.dataset_name={test}"
    assert (
        main(["sft", "--dry-run", *settings, data, f"checkpointing.checkpoint_dir={tmp_path / 'new'}"]) == 0
    )
    assert not (tmp_path / "new").exists(), "a plan leaves nothing"


def test_a_context_that_the_model_lacks_fails(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    code, text = plan(capsys, "sft", f"policy.model_name={model}", "policy.max_total_sequence_length=100000")
    assert code == 2
    assert "policy.max_total_sequence_length=100000 is more than the " in text


@pytest.mark.slow
def test_a_reward_that_no_worker_can_load_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "def right_answer(completions, **columns): return [0.0] * len(completions)"
    )
    path = tmp_path / "mine.py"
    code, text = plan(capsys, "grpo", f"rewards.functions=[{{path: {path}:right_anser}}]")
    assert code == 1
    assert "error: reward 'right_anser'" in text
    assert "did you mean 'right_answer'?" in text
    code, text = plan(capsys, "grpo", f"rewards.functions=[{{path: {path}:right_answer}}]")
    assert code == 0


ROWS = {
    "sft.jsonl": '{"prompt": "a", "completion": "b"}',
    "pairs.jsonl": '{"prompt": "a", "chosen": "b", "rejected": "c"}',
    "text.jsonl": '{"question": "a", "answer": "b"}',
    "prompts.jsonl": '{"prompt": "a", "answer": "b"}',
}
REFUSED = {
    "an unknown reward": (
        "grpo",
        "data.train.dataset_name=prompts.jsonl",
        "rewards.functions=[{name: anser}]",
    ),
    "a column that a reward needs": (
        *("grpo", "data.train.dataset_name=sft.jsonl"),
        "rewards.functions=[{path: mine.py:needs_answer}]",
    ),
    "pairs for sft": ("sft", "data.train.dataset_name=pairs.jsonl"),
    "rows for dpo": ("dpo", "data.train.dataset_name=sft.jsonl"),
    "a prompt file without a place": (
        *("grpo", "data.train.dataset_name=prompts.jsonl", "data.train.prompt_file=prompt.txt"),
        "rewards.functions=[{name: answer}]",
    ),
    "a tracker that is missing": ("sft", "data.train.dataset_name=sft.jsonl", "logger.wandb_enabled=true"),
    "a folder that is a file": (
        *("sft", "data.train.dataset_name=sft.jsonl", "checkpointing.checkpoint_dir=sft.jsonl/run"),
    ),
    "a learning rate that is no number": (
        *("sft", "data.train.dataset_name=sft.jsonl", "policy.optimizer.kwargs.lr=1e-5x"),
    ),
    "an optimizer's unknown argument": (
        *("sft", "data.train.dataset_name=sft.jsonl", "++policy.optimizer.kwargs.speed=1"),
    ),
    "adapters for no module": (
        *("sft", "data.train.dataset_name=sft.jsonl", "policy.lora.enabled=true"),
        "policy.lora.target_modules=[quack_proj]",
    ),
    "data that is not there": ("sft", "data.train.dataset_name=nowhere.jsonl"),
    "a model that is not there": (
        *("sft", "data.train.dataset_name=sft.jsonl", "policy.model_name=./nowhere"),
    ),
    "an evaluation without data": ("eval", "data.dataset_name=nowhere.jsonl"),
    "an evaluation of a missing column": (
        *("eval", "data.dataset_name=sft.jsonl", "rewards.functions=[{name: answer}]"),
    ),
    "an evaluation into a file": (
        *("eval", "data.dataset_name=prompts.jsonl", "rewards.functions=[{name: answer}]"),
        "eval.save_path=sft.jsonl/told",
    ),
    "a method that does not fit the rows": ("rm", "data.train.dataset_name=sft.jsonl"),
    "answers that are not there": (
        *("distill", "data.train.dataset_name=prompts.jsonl", "distillation.on_policy_fraction=0.5"),
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_plan_refuses_what_the_run_refuses_in_the_same_words(
    what: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the run refuses it before it loads a weight."""
    if what == "a tracker that is missing" and importlib.util.find_spec("wandb"):
        pytest.skip("wandb is installed")
    monkeypatch.chdir(tmp_path)
    for name, row in ROWS.items():
        Path(name).write_text(row + "\n")
    Path("mine.py").write_text(
        "def needs_answer(completions, gold, **columns): return [0.0] * len(completions)"
    )
    Path("prompt.txt").write_text("Think, then answer.")
    kind, *given = REFUSED[what]
    usual = [] if kind == "eval" else ["policy.max_total_sequence_length=64", "policy.precision=float32"]
    name = "generation.model_name" if kind == "eval" else "policy.model_name"
    argv = [f"{name}={model}", *usual, *given]
    there = sorted(str(path) for path in tmp_path.rglob("*") if "__pycache__" not in path.parts)

    code, planned = plan(capsys, kind, *argv)
    assert code in (1, 2), planned
    assert sorted(str(path) for path in tmp_path.rglob("*") if "__pycache__" not in path.parts) == there

    def no_weights(*_: object, **__: object) -> None:
        raise AssertionError("a weight was loaded")

    monkeypatch.setattr("hone.model.loading.load_model", no_weights)
    monkeypatch.setattr("hone.engine.local.model_factory.load_model", no_weights)
    monkeypatch.setattr(sys.modules["hone.engine.build"], "load_model", no_weights)
    assert main([kind, *argv]) == code
    captured = capsys.readouterr()
    errors = [
        [line for line in text.splitlines() if line.startswith("error:")] for text in (planned, captured.err)
    ]
    assert len(errors[0]) == 1, planned
    assert errors[0] == errors[1], captured.err


@pytest.mark.slow
def test_a_cluster_is_planned_from_a_laptop(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Llama-2-7B by its published config: 16 bytes for each of 6,738,415,616 parameters over eight devices."""
    sizes = {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "max_position_embeddings": 4096,
    }
    LlamaConfig(**sizes).save_pretrained(tmp_path / "7b")
    argv = ("sft", f"policy.model_name={tmp_path / '7b'}", "data.train.dataset_name=/nowhere/x.jsonl")
    code, text = plan(capsys, *argv, "--gpu", "A100-80G", "cluster.gpus_per_node=8")
    assert code == 0
    assert "asked for: 1 x 8 GPUs; here: " in text
    assert "FSDP2 (8 ranks = shard 8): micro-batch 4" in text
    rows = {words[0]: " ".join(words[1:3]) for line in text.splitlines() if len(words := line.split()) > 2}
    assert rows["weights"] == rows["gradients"] == f"{4 * 6_738_415_616 / 8 / 2**30:.1f} GiB" == "3.1 GiB"
    assert rows["optimizer"] == "6.3 GiB"
    assert "of 72.9 GiB that can be used, in training" in text
    assert "32 sequences per update, at most 4096 tokens at once" in text  # 4 of 1024
    code, text = plan(capsys, *argv, "--gpu", "A100-80G")
    assert "micro-batch 8, activation checkpointing, CPU offload" in text
    assert "does not fit: micro-batch 8, " in text
    assert "and in host memory 100.4 GiB a device" in text
    code, text = plan(capsys, *argv, "--gpu", "A100-80G", "policy.cpu_offload=false")
    assert code == 0
    assert "does not fit A100-80G; at least: one process: micro-batch 1, activation checkpointing" in text
    assert "would fit: leave policy.cpu_offload open (null): " in text
    assert "would fit: policy.lora.enabled=true: " in text
    assert "would fit: 2 x A100-80G (cluster.num_nodes=1 cluster.gpus_per_node=2): " in text


def test_a_gpu_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = plan(capsys, "sft", "--gpu", "H100")
    assert code == 2
    assert "--gpu H100: did you mean H100-80G or H100-NVL?" in text
