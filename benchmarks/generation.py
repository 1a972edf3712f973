"""Tokens per second of greedy decoding: Hone's built-in generator, `transformers.generate` and vLLM, side by side.

Every side runs in a process of its own, in turn, with the same prompts; each makes exactly `--tokens` new tokens a
row. Two speeds are printed: by the clock, and by the processor's time, which says more on a machine that others use too
(run it with `--threads 1` then: threads that wait for each other spin). `reading` is a bound of the memory: how many
tokens a second there could be if every step read the weights once, in the precision that is asked for, as fast as this
machine sums up a large array. It binds at few rows; at many the products do.

    python benchmarks/generation.py [--model FOLDER | --size 0.5B] [--rows 8,64] [--dtypes float32,bfloat16]
        [--sides hone,transformers,vllm] [--vllm-python PATH] [--before CHECKOUT]

vLLM runs in the Python of `--vllm-python` where it is not in this one. `--before` adds an older checkout of Hone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import SHAPES, make_model

SIDES = ("hone", "transformers", "vllm")
VLLM = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process, whose processor time is measured
    "VLLM_LOGGING_LEVEL": "ERROR",
}
PROMPT_TOKENS = 24
Decode = Callable[[int], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=None, help="a folder or a name; else random weights of --size")
    parser.add_argument("--size", choices=list(SHAPES), default="5M")
    parser.add_argument("--rows", default="8,64")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--pairs", type=int, default=3, help="runs of each, in turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--vllm-python", default=sys.executable)
    parser.add_argument("--before", type=Path, default=None)
    parser.add_argument("--worker", metavar="SIDE")
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(options)))
        return
    with tempfile.TemporaryDirectory() as name:
        if options.model is None:
            make_model(Path(name), size=options.size, vocabulary=SHAPES[options.size].get("vocab_size", 4096))
            options.model = name
        sides = [*options.sides.split(","), *(["before"] if options.before else [])]
        for dtype in options.dtypes.split(","):
            for rows in options.rows.split(","):
                compare(options, sides, dtype, rows)


def compare(options: argparse.Namespace, sides: list[str], dtype: str, rows: str) -> None:
    """Run all sides in turn; print medians, and each one's speed as a multiple of the others' pair by pair."""
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for pair in range(options.pairs):
        for side in sides if pair % 2 == 0 else sides[::-1]:
            found[side].append(run(options, side, dtype, rows))
            print(f"pair {pair + 1}: {dtype} {rows} rows {side:12} {json.dumps(found[side][-1])}", flush=True)
    for side, results in found.items():
        line = [f"{dtype:9} {rows:>4} rows {side:12}"]
        for key in ("clock", "processor", "reading"):
            line.append(f"{key} {statistics.median(result[key] for result in results):9.1f}")
            if key != "reading":
                ours = [result[key] for result in found[sides[0]]]
                ratios = [a / b[key] for a, b in zip(ours, results, strict=True)]
                line.append(f"({sides[0]} {statistics.median(ratios):.2f} times)")
        print(" ".join(line), flush=True)


def run(options: argparse.Namespace, side: str, dtype: str, rows: str) -> dict[str, float]:
    """One run of a side in a new process: tokens per second."""
    python = options.vllm_python if side == "vllm" else sys.executable
    command = [python, __file__, "--worker", side, "--model", str(options.model), "--dtypes", dtype]
    command += ["--rows", rows, "--tokens", str(options.tokens), "--threads", str(options.threads)]
    environment = {**os.environ, **VLLM, "OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
    if side == "before":
        environment["PYTHONPATH"] = str(options.before / "src")
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(options: argparse.Namespace) -> dict[str, float]:
    """In a worker: the best of two calls after one that warms up."""
    rows, tokens = int(options.rows), options.tokens
    make: dict[str, Callable[[argparse.Namespace, list[list[int]]], Decode]] = {
        "hone": hone,
        "before": hone,
        "transformers": transformers,
        "vllm": vllm,
    }
    import torch

    torch.set_num_threads(options.threads)
    weights = sum(file.stat().st_size for file in Path(options.model).glob("*.safetensors"))
    prompts = [[(7 * row + 3 * place) % 900 + 30 for place in range(PROMPT_TOKENS)] for row in range(rows)]
    decode = make[options.worker](options, prompts)
    decode(2)
    clock, processor = [], []
    for _ in range(2):
        start, used = time.perf_counter(), time.process_time()
        decode(tokens)
        clock.append(time.perf_counter() - start)
        processor.append(time.process_time() - used)
    stored = 2 if "bfloat16" in (Path(options.model) / "config.json").read_text() else 4
    step = weights / stored * (4 if options.dtypes == "float32" else 2)
    made = rows * tokens
    return {
        "clock": made / min(clock),
        "processor": made / min(processor),
        "reading": rows * bandwidth() / step if weights else float("nan"),
    }


def bandwidth() -> float:
    """Bytes a second that summing a large array reads."""
    import torch

    array = torch.ones(100_000_000)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        array.sum()
        best = min(best, time.perf_counter() - start)
    return array.nbytes / best


def hone(options: argparse.Namespace, prompts: list[list[int]]) -> Decode:
    import torch

    from hone.engine.local.generator import LocalGenerator
    from hone.engine.local.learner import DTYPES, autocast
    from hone.model.loading import load_model, load_tokenizer
    from hone.types import Prompt, Sampling

    dtype = options.dtypes
    if options.worker == "hone":
        from hone.planning.cpu import generator_precision

        dtype = generator_precision(dtype, on_cpu=True)
    model: Any = load_model(options.model).eval()
    generator = LocalGenerator(
        model,
        load_tokenizer(options.model),
        stop_tokens=[],
        context=PROMPT_TOKENS + options.tokens,
        autocast=lambda: autocast("cpu", DTYPES[dtype]),
    )
    requests = [Prompt(str(i), tuple(prompt), "") for i, prompt in enumerate(prompts)]
    assert isinstance(model, torch.nn.Module)

    def decode(tokens: int) -> None:
        sampling = Sampling(max_new_tokens=tokens, temperature=0.0, ignore_eos=True)
        asyncio.run(generator.generate(requests, sampling))

    return decode


def transformers(options: argparse.Namespace, prompts: list[list[int]]) -> Decode:
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtypes))
    ids = torch.tensor(prompts)

    def decode(tokens: int) -> None:
        with torch.no_grad():
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
            )

    return decode


def vllm(options: argparse.Namespace, prompts: list[list[int]]) -> Decode:
    from vllm import LLM, SamplingParams

    model = LLM(
        options.model,
        dtype=options.dtypes,
        enforce_eager=True,
        max_model_len=PROMPT_TOKENS + options.tokens,
        enable_prefix_caching=False,
    )
    requests = [{"prompt_token_ids": prompt} for prompt in prompts]

    def decode(tokens: int) -> None:
        settings = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True, detokenize=False)
        model.generate(requests, settings, use_tqdm=False)

    return decode


if __name__ == "__main__":
    main()
