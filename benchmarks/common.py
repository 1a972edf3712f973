"""What the benchmarks share: a model and data made on the spot, and runs in turn (A B A B ...) in fresh processes.

Each run is a process of its own with the same number of threads. What is compared is the median over the runs and the
ratio pair by pair, since machines drift.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

GSM8K = Path(__file__).resolve().parents[2] / "shared" / "data" / "gsm8k" / "train.jsonl"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def rows(limit: int) -> list[dict[str, str]]:
    """GSM8K questions and answers where they are at hand, else the embedded word problems."""
    if GSM8K.is_file():
        with GSM8K.open() as lines:
            found = [json.loads(line) for _, line in zip(range(limit), lines, strict=False)]
        return [{"question": row["question"], "answer": row["answer"]} for row in found]
    from hone.embedded import dataset_rows

    return [
        {"question": row["prompt"][-1]["content"], "answer": row["completion"][-1]["content"]}
        for row in dataset_rows("hone/word-problems", "sft", limit)
    ]


SHAPES: dict[str, dict[str, int]] = {
    "5M": {
        **{"hidden_size": 256, "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2},
        **{"head_dim": 64, "intermediate_size": 768},
    },
    "0.5B": {
        **{"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2},
        **{"head_dim": 64, "intermediate_size": 4864, "vocab_size": 151_936},
    },
    "1.5B": {
        **{"hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2},
        **{"head_dim": 128, "intermediate_size": 8960, "vocab_size": 151_936},
    },
}
"""A small one for a CPU, and those of Qwen2.5-0.5B and -1.5B."""


def make_model(folder: Path, *, vocabulary: int = 4096, eos: int = 1, size: str = "5M") -> None:
    """A Qwen3 of a size of SHAPES with random weights, and a tokenizer of `vocabulary` tokens trained on the rows.

    `eos` tokens of the vocabulary end a sequence: random weights then give completions of varied length
    (mean vocabulary / eos).
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator((row["question"] + row["answer"] for row in rows(4000)), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    config = Qwen3Config(
        **{"vocab_size": vocabulary, **SHAPES[size]},
        tie_word_embeddings=True,
        max_position_embeddings=2048,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config)
    ends = [2, *range(vocabulary - eos + 1, vocabulary)]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=0, do_sample=True)
    model.save_pretrained(folder)


def arguments(description: str) -> argparse.Namespace:
    """The options that all benchmarks have. `--worker` is what the benchmark calls itself with."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--pairs", type=int, default=5, help="runs of each, in turn")
    parser.add_argument("--steps", type=int, default=8, help="measured optimizer steps of a run")
    parser.add_argument("--threads", type=int, default=1, help="threads of each run")
    parser.add_argument("--size", choices=list(SHAPES), default="5M", help="parameters of the model")
    parser.add_argument("--method", choices=["dpo", "rm"], default="dpo", help="of pairs_vs_trl.py")
    parser.add_argument("--gpu", action="store_true", help="on the GPU, in bf16")
    parser.add_argument("--worker", metavar="SIDE")
    parser.add_argument("--folder", type=Path)
    return parser.parse_args()


def step_marks() -> list[tuple[float, int]]:
    """A list that gets the time at which each step of a run of Hone in this process ends, and the step's tokens."""
    from hone.training import run

    marks: list[tuple[float, int]] = []
    original = run.TrainingRun.end_step

    async def end_step(self: run.TrainingRun, step: int, metrics: dict[str, float], *, tokens: int) -> None:
        await original(self, step, metrics, tokens=tokens)
        marks.append((time.perf_counter(), tokens))

    run.TrainingRun.end_step = end_step  # type: ignore[method-assign,assignment]
    return marks


def compare(
    options: argparse.Namespace,
    script: str,
    prepare: Callable[[Path], None],
    unit: str,
    sides: tuple[str, str] = ("hone", "trl"),
) -> dict[str, Any]:
    """Run both in turn; print and return medians and the ratio of speeds (the first's over the second's: above 1 the
    first is faster).

    A worker prints one JSON object on its last line, with `seconds` (of the measured steps) and `work` (in `unit`). A
    unit such as "steps/h" is a rate already.
    """
    first, second = sides
    rate = unit if "/" in unit else f"{unit}/s"
    speeds: dict[str, list[float]] = {side: [] for side in sides}
    used: dict[str, list[float]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        for pair in range(options.pairs):
            for side in sides if pair % 2 == 0 else sides[::-1]:
                result = _run(options, script, side, folder)
                speeds[side].append(result["work"] / result["seconds"])
                if "flops" in result:
                    used[side].append(result["flops"] / result["seconds"] / result["peak"])
                print(f"pair {pair + 1}: {side:8} {speeds[side][-1]:10.1f} {rate}", flush=True)
    ratios = [a / b for a, b in zip(speeds[first], speeds[second], strict=True)]
    report = {
        "unit": rate,
        first: statistics.median(speeds[first]),
        second: statistics.median(speeds[second]),
        **{f"{side} MFU": statistics.median(values) for side, values in used.items() if values},
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "pairs": options.pairs,
        "threads": options.threads,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "date": time.strftime("%Y-%m-%d"),
    }
    print(json.dumps(report, indent=1))
    return report


def flops(folder: Path, tokens: int, sequence: float) -> float:
    """Of forward and backward over so many tokens, in sequences of a mean length: 6 for each weight of a matrix and
    token, 12 for each layer's width and earlier token of attention (Chowdhery et al. 2022, arXiv 2204.02311, appendix
    B, halved for causality). The output layer is counted at every token; recomputation is not counted."""
    config = json.loads((folder / "model" / "config.json").read_text())
    width, head = config["hidden_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    layer = width * (2 * queries + 2 * keys) + 3 * width * config["intermediate_size"]
    matrices = config["num_hidden_layers"] * layer + width * config["vocab_size"]
    return tokens * (6.0 * matrices + 6.0 * config["num_hidden_layers"] * queries * sequence)


def peak() -> float:
    """bf16 FLOP/s that this GPU reaches in a large matrix product."""
    import torch

    size, times = 8192, 30
    left = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    for count in (3, times):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(count):
            left @ left
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    return 2.0 * size**3 * times / seconds


def _run(options: argparse.Namespace, script: str, side: str, folder: Path) -> dict[str, float]:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(options.threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, script, "--worker", side, "--folder", str(folder)]
    command += ["--steps", str(options.steps), "--threads", str(options.threads), "--size", options.size]
    command += ["--method", options.method, *(["--gpu"] if options.gpu else [])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
