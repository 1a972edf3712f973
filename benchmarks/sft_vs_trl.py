"""SFT: trained tokens (padding not counted) per second, Hone against TRL's SFTTrainer.

    python benchmarks/sft_vs_trl.py --pairs 5
    python benchmarks/sft_vs_trl.py --gpu --size 0.5B --steps 20

Same model (about 5 M parameters unless told otherwise), same GSM8K conversations, 32 sequences a step in micro-batches
of 8, loss on the answers only, AdamW, fp32, same threads. Everything else is each library's default. On a GPU: bf16
over fp32 weights, and the share of the card's own bf16 peak that is used (MFU).
"""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path

import common

WARM_UP = 3
BATCH, MICRO = 32, 8


def prepare(folder: Path, size: str) -> None:
    common.make_model(folder / "model", size=size)
    with (folder / "rows.jsonl").open("w") as out:
        for row in common.rows(4000):
            prompt = [{"role": "user", "content": row["question"]}]
            completion = [{"role": "assistant", "content": row["answer"]}]
            out.write(json.dumps({"prompt": prompt, "completion": completion}) + "\n")


def hone(folder: Path, steps: int, threads: int, more: tuple[str, ...] = (), *, gpu: bool = False) -> None:
    from hone.config import load
    from hone.training import supervised

    marks = common.step_marks()
    supervised.main(
        load(
            "sft",
            None,
            [
                f"policy.model_name={folder / 'model'}",
                f"data.train.dataset_name={folder / 'rows.jsonl'}",
                f"policy.train_global_batch_size={BATCH}",
                f"policy.train_micro_batch_size={MICRO}",
                f"policy.precision={'bfloat16' if gpu else 'float32'}",
                f"cluster.gpus_per_node={int(gpu)}",
                "policy.optimizer.kwargs.lr=1e-4",
                f"sft.max_num_steps={WARM_UP + steps}",
                "checkpointing.enabled=false",
                f"checkpointing.checkpoint_dir={folder / 'hone-run'}",
                "checkpointing.metric_name=null",
                "logger.tensorboard_enabled=false",
                f"cluster.cpu_threads={threads}",
                *more,
            ],
        )
    )
    report(folder, marks, gpu=gpu)


def trl(folder: Path, steps: int, threads: int, *, gpu: bool = False) -> None:
    import torch
    from datasets import load_dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(threads)
    marks: list[tuple[float, int]] = []
    tokens = 0

    class Clock(TrainerCallback):
        def on_step_end(self, *args: object, **kwargs: object) -> None:
            nonlocal tokens
            marks.append((time.perf_counter(), tokens))
            tokens = 0

    trainer = SFTTrainer(
        model=str(folder / "model"),
        args=SFTConfig(
            output_dir=str(folder / "trl-run"),
            per_device_train_batch_size=MICRO,
            gradient_accumulation_steps=BATCH // MICRO,
            max_steps=WARM_UP + steps,
            max_length=1024,
            completion_only_loss=True,
            learning_rate=1e-4,
            bf16=gpu,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            use_cpu=not gpu,
            disable_tqdm=True,
            model_init_kwargs={"dtype": "float32"},
        ),
        train_dataset=load_dataset("json", data_files=str(folder / "rows.jsonl"), split="train"),
        callbacks=[Clock()],
    )
    collate = trainer.data_collator

    def counting(examples: list[dict]) -> dict:
        nonlocal tokens
        tokens += sum(len(example["input_ids"]) for example in examples)
        return collate(examples)

    trainer.data_collator = counting
    trainer.train()
    report(folder, marks, gpu=gpu)


def report(folder: Path, marks: list[tuple[float, int]], *, gpu: bool) -> None:
    """What `common.compare` reads."""
    seconds = marks[-1][0] - marks[WARM_UP - 1][0]
    work = sum(tokens for _, tokens in marks[WARM_UP:])
    result: dict[str, float] = {"seconds": seconds, "work": work}
    if gpu:
        mean = work / BATCH / (len(marks) - WARM_UP)
        result |= {"flops": common.flops(folder, work, mean), "peak": common.peak()}
    print(json.dumps(result))


if __name__ == "__main__":
    options = common.arguments(__doc__ or "")
    if options.worker:
        worker = {"hone": hone, "trl": trl}[options.worker]
        worker(options.folder, options.steps, options.threads, gpu=options.gpu)
    else:
        common.compare(options, __file__, partial(prepare, size=options.size), "tokens")
