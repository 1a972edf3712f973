"""Log-probabilities of 8 x 1,024 targets at Qwen2.5's vocabulary, forward and backward: memory and time.

Five ways, in turn, each run in a process of its own: ours, and ours keeping nothing for backward (as
`policy.logprob_chunk_size` has it); the full logits, `log_softmax` in fp32 and `gather`; TRL's
`selective_log_softmax` of the full logits, as they come from the product and in fp32. `bfloat16` stands for a model in
bf16. TRL takes the softmax of bf16 logits in bf16: less work and other numbers (`error`, against fp64 on a few
rows).

Peak memory is what the call adds to what was there before (hidden states, weight): on a CPU the resident set's
high-water mark, set back before the call (Linux); on CUDA the allocator's. Beside the time on the clock stands the
processor's, which says more on a machine that others use too.

    python benchmarks/logprob_memory.py [--rows 8192] [--pairs 1] [--sides hone,full] [--dtypes float32]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

SIDES = ("hone", "hone-lean", "full", "trl", "trl-fp32")
CHECKED_ROWS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=8192, help="target tokens")
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--hidden", type=int, default=896, help="896: Qwen2.5-0.5B")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each side, in turn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--worker", choices=SIDES)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(_measure(options)))
        return
    for dtype in options.dtypes.split(","):
        _compare(options, dtype, options.sides.split(","))


def _compare(options: argparse.Namespace, dtype: str, sides: list[str]) -> None:
    """Run the sides in turn, print medians and, pair by pair, what each takes as a multiple of the first."""
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for pair in range(options.pairs):
        for side in sides if pair % 2 == 0 else sides[::-1]:
            runs[side].append(_run(options, side, dtype))
            print(f"pair {pair + 1}: {dtype} {side:9} {json.dumps(runs[side][-1])}", flush=True)
    first = runs[sides[0]]
    report = {
        "work": f"{options.rows} targets, vocabulary {options.vocabulary}, hidden {options.hidden}, {dtype}",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {options.threads} thread(s)",
        "date": time.strftime("%Y-%m-%d"),
        "pairs": options.pairs,
    }
    print(json.dumps(report), flush=True)
    for side in sides:
        told = []
        for name in ("seconds", "cpu_seconds", "peak_gib"):
            ratios = [run[name] / own[name] for run, own in zip(runs[side], first, strict=True)]
            middle = statistics.median(run[name] for run in runs[side])
            span = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            told.append(f"{name} {middle:.4g}, {span} times {sides[0]}'s")
        print(f"{side:9}", "; ".join(told), flush=True)


def _run(options: argparse.Namespace, side: str, dtype: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--worker", side, "--dtypes", dtype]
    for name in ("rows", "vocabulary", "hidden", "threads"):
        command += [f"--{name}", str(getattr(options, name))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{side} failed with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _measure(options: argparse.Namespace) -> dict[str, float]:
    """One forward and backward, in a process that has warmed up on a small problem (on CUDA: on the same)."""
    import torch

    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, options.dtypes)
    hidden = torch.randn(options.rows, options.hidden, generator=generator).to(device, dtype)
    weight = (0.05 * torch.randn(options.vocabulary, options.hidden, generator=generator)).to(device, dtype)
    targets = torch.randint(0, options.vocabulary, (options.rows,), generator=generator).to(device)
    grad = (torch.randn(options.rows, generator=generator) / options.rows).to(device)
    logprobs = _logprobs(options.worker)

    def both(rows: int, vocabulary: int) -> tuple[torch.Tensor, float, float]:
        some = (hidden[:rows].detach().requires_grad_(), weight[:vocabulary].detach().requires_grad_())
        began, cpu_began = time.perf_counter(), time.process_time()
        values = logprobs(*some, targets[:rows] % vocabulary)
        values.backward(grad[:rows].to(values.dtype))
        if device == "cuda":
            torch.cuda.synchronize()
        return values.detach(), time.perf_counter() - began, time.process_time() - cpu_began

    both(*((options.rows, options.vocabulary) if device == "cuda" else (64, 1000)))
    before = _start_peak(device)
    values, seconds, cpu_seconds = both(options.rows, options.vocabulary)
    peak = _peak(device) - before
    exact = (hidden[:CHECKED_ROWS].double() @ weight.double().t()).log_softmax(-1)
    error = values[:CHECKED_ROWS].double() - exact.gather(1, targets[:CHECKED_ROWS, None]).squeeze(1)
    return {
        "seconds": round(seconds, 4),
        "cpu_seconds": round(cpu_seconds, 4),
        "peak_gib": round(peak / 2**30, 3),
        "error": float(f"{error.abs().max():.1e}"),
    }


def _logprobs(side: str) -> Callable[..., object]:
    if side in ("hone", "hone-lean"):
        from hone.model.linear_logprobs import linear_logprobs

        return partial(linear_logprobs, chunk_rows=1024 if side == "hone-lean" else None)
    if side == "full":
        return lambda h, w, t: (h @ w.t()).float().log_softmax(-1).gather(1, t[:, None]).squeeze(1)
    from trl.trainer.utils import selective_log_softmax

    if side == "trl":
        return lambda h, w, t: selective_log_softmax(h @ w.t(), t)
    return lambda h, w, t: selective_log_softmax((h @ w.t()).float(), t)


def _start_peak(device: str) -> int:
    """Bytes in use; the high-water mark is counted from here."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak(device: str) -> int:
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    return _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
