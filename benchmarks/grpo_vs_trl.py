"""GRPO: completions sampled, scored and learned from per second, Hone against TRL's GRPOTrainer.

    python benchmarks/grpo_vs_trl.py --pairs 5

Same model (about 5 M parameters, random weights), same GSM8K prompts, 8 prompts x 8 completions of at most 128 tokens
a step, one update a step in micro-batches of 8, the same Python reward function, AdamW, fp32, same threads, each
library's own generator (TRL: `transformers` generate). 48 of the 4,096 tokens end a sequence for both, so lengths vary
as they do in real runs (mean about 70 of 128).
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import common

WARM_UP = 2
PROMPTS, GROUP, LONGEST, MICRO = 8, 8, 128, 8


def reward(completions: list, **columns: object) -> list[float]:
    """Share of digits: cheap, and different for each completion."""
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [sum(ch.isdigit() for ch in text) / max(len(text), 1) for text in texts]


def prepare(folder: Path) -> None:
    common.make_model(folder / "model", eos=48)
    with (folder / "rows.jsonl").open("w") as out:
        for row in common.rows(1000):
            out.write(json.dumps({"prompt": [{"role": "user", "content": row["question"]}]}) + "\n")


def settings(folder: Path, steps: int, threads: int, kind: str) -> list[str]:
    """The run as Hone is told it."""
    return [
        f"policy.model_name={folder / 'model'}",
        f"data.train.dataset_name={folder / 'rows.jsonl'}",
        f"rewards.functions=[{{path: '{Path(__file__).resolve()}:reward'}}]",
        f"{kind}.num_prompts_per_step={PROMPTS}",
        f"{kind}.num_generations_per_prompt={GROUP}",
        f"{kind}.max_num_steps={WARM_UP + steps}",
        f"{kind}.val_period=0",
        f"policy.train_global_batch_size={PROMPTS * GROUP}",
        f"policy.train_micro_batch_size={MICRO}",
        f"policy.generation_batch_size={PROMPTS * GROUP}",
        "policy.max_total_sequence_length=1024",
        f"policy.generation.max_new_tokens={LONGEST}",
        "policy.precision=float32",
        "policy.optimizer.kwargs.lr=1e-6",
        "loss_fn.reference_policy_kl_penalty=0",
        "checkpointing.enabled=false",
        f"checkpointing.checkpoint_dir={folder / 'hone-run'}",
        "checkpointing.metric_name=null",
        "logger.tensorboard_enabled=false",
        f"cluster.cpu_threads={threads}",
    ]


def hone(folder: Path, steps: int, threads: int) -> None:
    from hone.config import load
    from hone.training import online

    marks = common.step_marks()
    summary = online.main(
        load(
            "grpo",
            None,
            settings(folder, steps, threads, "grpo"),
        )
    )
    laps = {k: round(v, 2) for k, v in summary["metrics"].items() if k.startswith("seconds")}
    report(
        [at for at, _ in marks], steps, laps | {"completion_length": summary["metrics"]["completion_length"]}
    )


def trl(folder: Path, steps: int, threads: int) -> None:
    import torch
    from datasets import load_dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(threads)
    marks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: object, **kwargs: object) -> None:
            marks.append(time.perf_counter())

    trainer = GRPOTrainer(
        model=str(folder / "model"),
        reward_funcs=[reward],
        args=GRPOConfig(
            output_dir=str(folder / "trl-run"),
            per_device_train_batch_size=MICRO,
            gradient_accumulation_steps=PROMPTS * GROUP // MICRO,
            num_generations=GROUP,
            max_completion_length=LONGEST,
            max_steps=WARM_UP + steps,
            learning_rate=1e-6,
            beta=0.0,
            temperature=1.0,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            use_cpu=True,
            disable_tqdm=True,
            model_init_kwargs={"dtype": "float32"},
        ),
        train_dataset=load_dataset("json", data_files=str(folder / "rows.jsonl"), split="train"),
        callbacks=[Clock()],
    )
    trainer.train()
    last = [entry for entry in trainer.state.log_history if "completions/mean_length" in entry][-1]
    report(marks, steps, {"completion_length": last["completions/mean_length"]})


def report(marks: list[float], steps: int, about: dict[str, float]) -> None:
    seconds = marks[-1] - marks[WARM_UP - 1]
    print(json.dumps({"seconds": seconds, "work": steps * PROMPTS * GROUP, "about": about}))


if __name__ == "__main__":
    options = common.arguments(__doc__ or "")
    if options.worker:
        {"hone": hone, "trl": trl}[options.worker](options.folder, options.steps, options.threads)
    else:
        common.compare(options, __file__, prepare, "completions")
