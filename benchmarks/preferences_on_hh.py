"""DPO on HH-RLHF (harmless-base) from a fresh tokenizer and a small model: how many held-out pairs are ranked right.

    python benchmarks/preferences_on_hh.py ../shared/data/hh-rlhf/harmless-base-test.jsonl.gz --out /tmp/hh

A byte-level BPE of 2,048 tokens and a Qwen3 of 1.3 M random weights are made of the training rows; SFT on the chosen
dialogues, then DPO on the pairs. A pair is ranked right when the chosen answer's implicit reward is the larger.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config

from hone.config import load
from hone.data.mixture import permutation
from hone.training import supervised

HELD_OUT = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("overrides", nargs="*", help="further settings of hone dpo")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with gzip.open(options.pairs, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    order = permutation(len(rows), options.seed).tolist()
    held = set(order[: round(HELD_OUT * len(rows))])
    for name, chosen in (("train", [i for i in order if i not in held]), ("held_out", sorted(held))):
        text = "".join(json.dumps(rows[i]) + "\n" for i in chosen)
        (options.out / f"{name}.jsonl").write_text(text)
        sft = "".join(json.dumps({"text": rows[i]["chosen"]}) + "\n" for i in chosen)
        (options.out / f"sft_{name}.jsonl").write_text(sft)
    model = options.out / "model"
    make(model, [rows[i]["chosen"] for i in order if i not in held], options.seed)
    common = [
        f"policy.max_total_sequence_length={options.length}",
        "policy.precision=float32",
        "policy.dynamic_batching.enabled=true",
        "policy.dynamic_batching.train_mb_tokens=4096",
        "policy.dynamic_batching.logprob_mb_tokens=8192",
    ]
    train(
        "sft",
        options.out / "sft",
        [
            *common,
            f"policy.model_name={model}",
            f"data.train.dataset_name={options.out / 'sft_train.jsonl'}",
            f"data.validation.dataset_name={options.out / 'sft_held_out.jsonl'}",
            "policy.train_global_batch_size=16",
            "policy.optimizer.kwargs.lr=2e-3",
            f"sft.max_num_epochs={options.epochs}",
            "sft.val_period=50",
            "sft.val_batches=-1",
        ],
    )
    from hone.export import convert, locate

    start = convert(*locate(options.out / "sft"), options.out / "sft-model")
    train(
        "dpo",
        options.out / "dpo",
        [
            *common,
            f"policy.model_name={start}",
            f"data.train.dataset_name={options.out / 'train.jsonl'}",
            f"data.validation.dataset_name={options.out / 'held_out.jsonl'}",
            "policy.train_global_batch_size=32",
            "policy.optimizer.kwargs.lr=2e-4",
            "dpo.beta=0.1",
            "dpo.max_num_epochs=2",
            "dpo.val_period=10",
            "dpo.val_batches=-1",
            "dpo.val_at_end=true",
            *options.overrides,
        ],
    )
    with (options.out / "dpo" / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            if row["val_reward_accuracy"]:
                print(f"RESULT step {row['step']}: {float(row['val_reward_accuracy']):.4f} of held-out pairs")


def make(folder: Path, texts: list[str], seed: int) -> None:
    """A tokenizer trained on the texts, and a model with random weights."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2048,
        special_tokens=["<|endoftext|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|endoftext|>", pad_token="<|pad|>"
    )
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=160,
        intermediate_size=448,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=40,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train(kind: str, folder: Path, overrides: list[str]) -> None:
    """A run of `hone KIND` in this process."""
    settings = [
        f"checkpointing.checkpoint_dir={folder}",
        "checkpointing.keep_top_k=1",
        "cluster.gpus_per_node=0",
    ]
    supervised.main(load(kind, None, [*overrides, *settings]))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
