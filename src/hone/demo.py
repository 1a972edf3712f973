"""`make demo`: SFT from random weights, then GRPO from the SFT model, measured on problems that neither has seen.

    results/demo/sft/            the SFT run                results/demo/sft-model/      the same for `transformers`
    results/demo/grpo-seed-S/    a GRPO run for each seed   results/demo/model-seed-S/   likewise
    results/demo/summary.json    accuracies and seconds     results/demo/curves.png      the plot

The same command resumes a stopped demo. `python -m hone.demo --seeds 7 8 9` uses other seeds, `--fresh` starts over.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from hone import embedded
from hone.errors import HoneError
from hone.files import read_json_object, write_json
from hone.lazy import lazy
from hone.registry import main_of

PROBLEMS = 512


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; returns 0, or a HoneError's exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m hone.demo", description="SFT, then GRPO, on this machine"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="a GRPO run for each")
    parser.add_argument("--out", type=Path, default=Path("results/demo"), help="folder to write")
    parser.add_argument("--fresh", action="store_true", help="remove an earlier demo's files and start over")
    options = parser.parse_args(argv)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        summary = demo(options.out, options.seeds, fresh=options.fresh)
    except HoneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(report(summary, options.out))
    return 0


def demo(out: Path, seeds: Sequence[int], *, fresh: bool = False) -> dict[str, Any]:
    """Run all phases; returns the content of summary.json."""
    if fresh:
        shutil.rmtree(out, ignore_errors=True)
    seconds = _Seconds(out)
    with seconds.phase("sft", "1. SFT: a model with random weights learns from worked examples"):
        _run("sft", [f"checkpointing.checkpoint_dir={out / 'sft'}"])
        start = _converted(out / "sft", out / "sft-model")
    with seconds.phase("eval_before", f"2. How many of {PROBLEMS} held-out problems does it solve?"):
        before = _accuracy(start)
    runs = []
    for seed in seeds:
        folder = out / f"grpo-seed-{seed}"
        title = f"3. GRPO, seed {seed}: the model learns from its own answers, which a reward function checks"
        with seconds.phase(f"grpo_seed_{seed}", title):
            overrides = [f"policy.model_name={start}", f"checkpointing.checkpoint_dir={folder}"]
            _run("grpo", [*overrides, f"grpo.seed={seed}"])
            model = _converted(folder, out / f"model-seed-{seed}")
        with seconds.phase(f"eval_seed_{seed}", f"4. The same {PROBLEMS} problems again"):
            runs.append({"seed": seed, "accuracy_before": before, "accuracy_after": _accuracy(model)})
    summary = summarize(before, runs, seconds.spent)
    write_json(out / "summary.json", summary)
    _draw(out, summary)
    return summary


def summarize(before: float, runs: list[dict[str, Any]], seconds: dict[str, float]) -> dict[str, Any]:
    """The content of summary.json: `accuracy_after` is the worst over the seeds, so that no seed is hidden."""
    after = [run["accuracy_after"] for run in runs]
    return {
        "accuracy_before": before,
        "accuracy_after": min(after),
        "accuracy_after_mean": sum(after) / len(after),
        "gain": min(after) - before,
        "problems": PROBLEMS,
        "decoding": "greedy",
        "seeds": runs,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "seconds_total": round(sum(seconds.values()), 1),
    }


def report(summary: dict[str, Any], out: Path) -> str:
    """The summary as text."""
    lines = [f"\nHeld-out accuracy (greedy, {summary['problems']} problems), after SFT -> after GRPO:"]
    for run in summary["seeds"]:
        lines.append(f"  seed {run['seed']}: {run['accuracy_before']:.1%} -> {run['accuracy_after']:.1%}")
    return "\n".join(
        [
            *lines,
            f"{summary['seconds_total']:.0f} s. Look at {out / 'curves.png'}; numbers are in {out / 'summary.json'}.",
            f"Rollouts are in {out}/grpo-seed-*/rollouts/, the models (for transformers) in {out}/model-seed-*.",
        ]
    )


def _run(command: Literal["sft", "grpo", "eval"], overrides: list[str]) -> dict[str, Any]:
    from hone.config import load

    result: dict[str, Any] = lazy(main_of(command))(load(command, embedded.RECIPES[command], overrides))
    return result


def _converted(run: Path, folder: Path) -> Path:
    from hone.export import convert, locate

    if not folder.exists():
        convert(*locate(run), folder)
    return folder


def _accuracy(model: Path) -> float:
    return float(_run("eval", [f"generation.model_name={model}", f"data.limit={PROBLEMS}"])["score"])


def _draw(out: Path, summary: dict[str, Any]) -> None:
    from hone.tracking import draw_seeds

    seeds = [run["seed"] for run in summary["seeds"]]
    draw_seeds(
        [out / f"grpo-seed-{seed}" / "metrics.csv" for seed in seeds],
        out / "curves.png",
        [(run["accuracy_before"], run["accuracy_after"]) for run in summary["seeds"]],
        title="SFT from random weights, then GRPO",
        seeds=seeds,
        first_stage=("SFT", out / "sft" / "metrics.csv"),
    )


class _Seconds:
    """The seconds of each phase, stored in a file so that a resumed demo reports all of them."""

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._file = out / ".seconds.json"
        self.spent: dict[str, float] = read_json_object(self._file)
        if "HONE_SETUP_SECONDS" in os.environ:  # set by the Makefile: how long the installation took
            self.spent.setdefault("setup", float(os.environ["HONE_SETUP_SECONDS"]))

    @contextmanager
    def phase(self, name: str, title: str) -> Iterator[None]:
        print(f"\n{title}", flush=True)
        start = time.monotonic()
        try:
            yield
        finally:
            self.spent[name] = self.spent.get(name, 0.0) + time.monotonic() - start
            write_json(self._file, self.spent)


if __name__ == "__main__":
    sys.exit(main())
