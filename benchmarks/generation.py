"""Tokens per second of greedy decoding: Hone's built-in generator, `transformers.generate` and vLLM, side by side.

Every side runs in a process of its own, in turn, with the same prompts; each makes exactly `--tokens` new tokens a
row. With `--longest N` there are `--batches` times as many requests as rows, prompts of 24 to 160 tokens, and 8 to N
new tokens, log-uniform: a long tail. With `--copy` the prompts ask to repeat a text. Sides: `hone` (fixed batches),
`continuous` (continuous batching), `drafts` (and 4 draft tokens), `transformers`, `vllm`.

Two speeds are printed: by the clock, and by the processor's time, which says more on a machine that others use too
(run it with `--threads 1` then: threads that wait for each other spin). `reading` is a bound of the memory: how many
tokens a second there could be if every step read the weights once, in the precision that is asked for, as fast as this
machine sums up a large array. It binds at few rows; at many the products do.

    python benchmarks/generation.py [--model FOLDER | --size 0.5B] [--rows 8,64] [--dtypes float32,bfloat16]
        [--sides hone,continuous,transformers,vllm] [--longest 256 | --copy] [--vllm-python PATH] [--before CHECKOUT]

vLLM runs in the Python of `--vllm-python` where it is not in this one. `--before` adds an older checkout of Hone, with
fixed batches.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import SHAPES, make_model
from common import rows as text_rows

SIDES = ("hone", "continuous", "transformers", "vllm")
VLLM = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process, whose processor time is measured
    "VLLM_LOGGING_LEVEL": "ERROR",
}
PROMPT_TOKENS = (24, 24, 40, 80, 160)
"""Lengths of prompts where lengths differ; else the first."""
DRAFTS = 4
Decode = Callable[[int], None]
"""Make each row's tokens, but at most so many."""


@dataclass(frozen=True)
class Work:
    """The prompts, and how many tokens each is answered with; `rows` of them at once."""

    prompts: list[list[int]]
    lengths: list[int]
    rows: int

    @property
    def context(self) -> int:
        pairs = zip(self.prompts, self.lengths, strict=True)
        return max(len(prompt) + length for prompt, length in pairs)


def work_of(options: argparse.Namespace) -> Work:
    """What the options ask for."""
    rows = int(options.rows)
    if options.copy:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(options.model)
        texts = [f"Repeat this text word for word:\n{row['question']}" for row in text_rows(rows)]
        chats = [[{"role": "user", "content": text}] for text in texts]
        prompts = [
            list(tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False))
            for chat in chats
        ]
        return Work(prompts, [options.tokens] * rows, rows)
    generator = random.Random(0)
    count = rows * (options.batches if options.longest else 1)
    sizes = [generator.choice(PROMPT_TOKENS) if options.longest else PROMPT_TOKENS[0] for _ in range(count)]
    prompts = [[(7 * row + 3 * place) % 900 + 30 for place in range(size)] for row, size in enumerate(sizes)]
    if not options.longest:
        return Work(prompts, [options.tokens] * count, rows)
    lengths = [int(8 * (options.longest / 8) ** generator.random()) for _ in range(count)]
    return Work(prompts, lengths, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=None, help="a folder or a name; else random weights of --size")
    parser.add_argument("--size", choices=list(SHAPES), default="5M")
    parser.add_argument("--rows", default="8,64")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--longest", type=int, default=0)
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--copy", action="store_true")
    parser.add_argument("--one-process", action="store_true", help="all sides in this one: less to start")
    parser.add_argument("--calls", type=int, default=2, help="calls of a run, of which the best counts")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--pairs", type=int, default=3, help="runs of each, in turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--vllm-python", default=sys.executable)
    parser.add_argument("--before", type=Path, default=None)
    parser.add_argument("--worker", metavar="SIDE")
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(timed(options, *prepare(options, options.worker))))
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
    options = argparse.Namespace(**vars(options) | {"dtypes": dtype, "rows": rows})
    here = {side: prepare(options, side) for side in sides} if options.one_process else {}
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for pair in range(options.pairs):
        for side in sides if pair % 2 == 0 else sides[::-1]:
            result = timed(options, *here[side]) if here else run(options, side, dtype, rows)
            found[side].append(result)
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
    command += ["--longest", str(options.longest), "--batches", str(options.batches)]
    command += ["--calls", str(options.calls), *(["--copy"] if options.copy else [])]
    environment = {**os.environ, **VLLM, "OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
    if side == "before":
        environment["PYTHONPATH"] = str(options.before / "src")
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def prepare(options: argparse.Namespace, side: str) -> tuple[Decode, Work]:
    """Load a side's model, and warm it up."""
    import torch

    torch.set_num_threads(options.threads)
    make: dict[str, Callable[[argparse.Namespace, Work, str], Decode]] = {
        "transformers": transformers,
        "vllm": vllm,
    }
    work = work_of(options)
    decode = make.get(side, hone)(options, work, side)
    decode(2)
    return decode, work


def timed(options: argparse.Namespace, decode: Decode, work: Work) -> dict[str, float]:
    """Tokens per second: the best of some calls."""
    clock, processor = [], []
    for _ in range(options.calls):
        start, used = time.perf_counter(), time.process_time()
        decode(work.context)
        clock.append(time.perf_counter() - start)
        processor.append(time.process_time() - used)
    weights = sum(file.stat().st_size for file in Path(options.model).glob("*.safetensors"))
    stored = 2 if "bfloat16" in (Path(options.model) / "config.json").read_text() else 4
    step = weights / stored * (4 if options.dtypes == "float32" else 2)
    made = sum(work.lengths)
    return {
        "clock": made / min(clock),
        "processor": made / min(processor),
        "reading": work.rows * bandwidth() / step if weights else float("nan"),
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


def hone(options: argparse.Namespace, work: Work, side: str) -> Decode:
    from hone.engine.local.decoding_row import DecodingRow
    from hone.engine.local.generator import LocalGenerator
    from hone.engine.local.learner import DTYPES, autocast
    from hone.model.loading import load_model, load_tokenizer
    from hone.types import Prompt, Sampling

    dtype = options.dtypes
    settings: dict[str, Any] = {}
    if side != "before":
        from hone.engine.local.continuous_batching import ContinuousBatching
        from hone.planning.cpu import generator_precision

        dtype = generator_precision(dtype, on_cpu=True)
        kinds = {
            "continuous": ContinuousBatching(),
            "drafts": ContinuousBatching(num_speculative_tokens=DRAFTS),
        }
        settings["continuous"] = kinds.get(side)
    model: Any = load_model(options.model).eval()
    generator = LocalGenerator(
        model,
        load_tokenizer(options.model),
        stop_tokens=[],
        context=work.context,
        max_rows=work.rows,
        autocast=lambda: autocast("cpu", DTYPES[dtype]),
        **settings,
    )

    def decode(most: int) -> None:
        rows = []
        for number, (prompt, length) in enumerate(zip(work.prompts, work.lengths, strict=True)):
            sampling = Sampling(max_new_tokens=min(length, most), temperature=0.0, ignore_eos=True)
            rows.append(DecodingRow.of(Prompt(str(number), tuple(prompt), ""), 0, sampling, work.context))
        with generator.decoding(most):
            generator.decode_rows(rows, rows[0].sampling, work.rows)

    return decode


def transformers(options: argparse.Namespace, work: Work, side: str) -> Decode:
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtypes))

    def decode(most: int) -> None:
        """In batches, each as long as its longest row."""
        for start in range(0, len(work.prompts), work.rows):
            prompts = work.prompts[start : start + work.rows]
            tokens = min(most, max(work.lengths[start : start + work.rows]))
            width = max(map(len, prompts))
            ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
            mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
            with torch.no_grad():
                model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    max_new_tokens=tokens,
                    min_new_tokens=tokens,
                    do_sample=False,
                    pad_token_id=0,
                )

    return decode


def vllm(options: argparse.Namespace, work: Work, side: str) -> Decode:
    from vllm import LLM, SamplingParams

    model = LLM(
        options.model,
        dtype=options.dtypes,
        enforce_eager=True,
        max_model_len=work.context,
        max_num_seqs=work.rows,
        enable_prefix_caching=False,
    )
    requests = [{"prompt_token_ids": prompt} for prompt in work.prompts]

    def decode(most: int) -> None:
        settings = [
            SamplingParams(max_tokens=min(length, most), temperature=0.0, ignore_eos=True, detokenize=False)
            for length in work.lengths
        ]
        model.generate(requests, settings, use_tqdm=False)

    return decode


if __name__ == "__main__":
    main()
