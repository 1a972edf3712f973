"""DPO and reward models: pairs per second, Hone against TRL's DPOTrainer and RewardTrainer.

    python benchmarks/pairs_vs_trl.py --method dpo --pairs 5
    python benchmarks/pairs_vs_trl.py --method rm --pairs 5

Same model (about 5 M parameters), same comparisons (HH-RLHF's where they are at hand, else the embedded ones), at most
256 tokens a side, 16 pairs a step in micro-batches of 4, AdamW, fp32, same threads. Everything else is each library's
default, but for TRL's `precompute_ref_log_probs`: in both the reference is computed before what is measured.
"""

from __future__ import annotations

import gzip
import itertools
import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import common

WARM_UP = 2
BATCH, MICRO, LENGTH = 16, 4, 256
HH = Path(__file__).resolve().parents[2] / "shared" / "data" / "hh-rlhf"


def comparisons(limit: int) -> list[dict[str, Any]]:
    """Conversational pairs with their prompt apart."""
    found = list(itertools.islice(_of_hh(), limit))
    if len(found) == limit:
        return found
    from hone.embedded import dataset_rows

    rows = dataset_rows("hone/word-problems", "sft", limit - len(found))
    return found + [
        _pair(row["prompt"][-1]["content"], row["completion"][-1]["content"], "I do not know.")
        for row in rows
    ]


def _of_hh() -> Iterator[dict[str, Any]]:
    for file in sorted(HH.glob("*.jsonl.gz")):
        with gzip.open(file, "rt") as lines:
            for row in map(json.loads, lines):
                start, _, chosen = row["chosen"].rpartition("\n\nAssistant:")
                same, _, rejected = row["rejected"].rpartition("\n\nAssistant:")
                asked = start.rpartition("\n\nHuman:")[2].strip()
                if start == same and asked and chosen.strip() and rejected.strip() and chosen != rejected:
                    yield _pair(asked[-600:], chosen.strip(), rejected.strip())


def _pair(prompt: str, chosen: str, rejected: str) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def prepare(folder: Path, size: str, steps: int) -> None:
    common.make_model(folder / "model", size=size)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")

    def fits(pair: dict[str, Any]) -> bool:
        # what is longer TRL's reward trainer would leave out and Hone cut: not the same work
        sides = (pair["prompt"] + pair[side] for side in ("chosen", "rejected"))
        return all(len(tokenizer.apply_chat_template(s)["input_ids"]) <= LENGTH for s in sides)

    rows = [pair for pair in comparisons(2 * BATCH * (WARM_UP + steps)) if fits(pair)]
    rows = rows[: BATCH * (WARM_UP + steps)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def hone(folder: Path, steps: int, threads: int, method: str) -> None:
    from hone.config import load
    from hone.training import supervised

    marks = common.step_marks()
    settings = [
        f"policy.model_name={folder / 'model'}",
        f"data.train.dataset_name={folder / 'rows.jsonl'}",
        f"policy.train_global_batch_size={BATCH}",
        f"policy.train_micro_batch_size={MICRO}",
        f"policy.max_total_sequence_length={LENGTH}",
        "policy.precision=float32",
        f"{method}.max_num_steps={WARM_UP + steps}",
        f"{method}.val_period=0",
        f"{method}.val_at_start=false",
        "checkpointing.enabled=false",
        "checkpointing.metric_name=null",
        f"checkpointing.checkpoint_dir={folder / 'hone-run'}",
        "logger.tensorboard_enabled=false",
        f"cluster.cpu_threads={threads}",
    ]
    supervised.main(load(method, None, settings))
    report([at for at, _ in marks])


def trl(folder: Path, steps: int, threads: int, method: str) -> None:
    import torch
    from datasets import load_dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

    torch.set_num_threads(threads)
    marks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: object, **kwargs: object) -> None:
            marks.append(time.perf_counter())

    usual: dict[str, Any] = {
        "output_dir": str(folder / "trl-run"),
        "per_device_train_batch_size": MICRO,
        "gradient_accumulation_steps": BATCH // MICRO,
        "max_steps": WARM_UP + steps,
        "max_length": LENGTH,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    rows = load_dataset("json", data_files=str(folder / "rows.jsonl"), split="train")
    if method == "dpo":
        config = DPOConfig(**usual, precompute_ref_log_probs=True, model_init_kwargs={"dtype": "float32"})
        trainer = DPOTrainer(str(folder / "model"), args=config, train_dataset=rows, callbacks=[Clock()])
    else:
        model = AutoModelForSequenceClassification.from_pretrained(
            folder / "model", num_labels=1, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        trainer = RewardTrainer(
            model,
            args=RewardConfig(**usual),
            train_dataset=rows,
            processing_class=tokenizer,
            callbacks=[Clock()],
        )
    trainer.train()
    report(marks)


def report(marks: list[float]) -> None:
    """What `common.compare` reads."""
    steps = len(marks) - WARM_UP
    print(json.dumps({"seconds": marks[-1] - marks[WARM_UP - 1], "work": BATCH * steps}))


if __name__ == "__main__":
    options = common.arguments(__doc__ or "")
    if options.worker:
        worker = {"hone": hone, "trl": trl}[options.worker]
        worker(options.folder, options.steps, options.threads, options.method)
    else:
        ready = partial(prepare, size=options.size, steps=options.steps)
        common.compare(options, __file__, ready, "pairs")
