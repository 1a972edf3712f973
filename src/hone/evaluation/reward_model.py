"""`hone eval-rm`: how well a reward model ranks held-out pairs: accuracy, margin, calibration."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hone.algorithms.losses.reward_model_losses import ranking_of
from hone.config.schema.data import PreferenceEntry
from hone.data.datasets import load_dataset
from hone.data.preferences import PreferenceData
from hone.data.resumable import DrawSettings
from hone.embedded import preference_pairs
from hone.errors import DataError
from hone.evaluation import own_metrics
from hone.export import convert, locate
from hone.files import write_json
from hone.rollout.rewards.reward_model import RewardModel
from hone.tracking import Progress
from hone.tracking.reliability_plot import draw_reliability
from hone.training.process import check_writable

CHUNK = 256
"""Pairs between two updates of the progress line."""


def command(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """`hone eval-rm` with its arguments."""
    parser.usage = "hone eval-rm --model_path MODEL [--test_dataset DATA] [option ...]"
    given = parser.add_argument
    about = "a reward model, or a run's folder"
    given("--model_path", "--model-path", required=True, metavar="MODEL", help=about)
    about = (
        "a file, a folder or a Hugging Face dataset of pairs (default: the comparisons that come with Hone)"
    )
    data = preference_pairs.NAME
    given("--test_dataset", "--test-dataset", metavar="DATA", default=data, help=about)
    given("--split", help="split of the dataset (default: test, if it has one)")
    given("--template", help="chat template: Jinja, or a file of it (default: the model's own)")
    given("--batch_size", "--batch-size", type=int, default=16, help="texts computed at once (default: 16)")
    given("--limit", type=int, metavar="N", help="use the first N rows only")
    given("--precision", default="float32", help="float32, bfloat16 or float16 (default: float32)")
    about = "run the Python code in the model's folder"
    given("--trust-remote-code", action="store_true", help=about)
    given("--device", help="such as cpu or cuda:1 (default: a GPU if there is one)")
    about = "your own metric, my_metrics.py:name, of predictions, labels, predicted_rewards, human_ratings"
    given("--metric", action="append", default=[], metavar="CODE", help=about)
    about = "folder to write (default: results/eval_rm)"
    given("--out", metavar="FOLDER", default="results/eval_rm", help=about)
    options = vars(parser.parse_args(argv))
    entry = PreferenceEntry.model_validate(
        {"dataset_name": options.pop("test_dataset"), "split": options.pop("split")}
    )
    main(options.pop("model_path"), entry, Path(options.pop("out")), **options)
    return 0


def main(
    model: str,
    entry: PreferenceEntry,
    out: Path,
    *,
    limit: int | None = None,
    metric: Sequence[str] = (),
    **options: Any,
) -> dict[str, Any]:
    """Score the pairs of a dataset with a reward model, print the report, and write `report.json`,
    `reliability.png` and `scores.jsonl` to `out`. `options` are RewardModel's."""
    own = own_metrics.load(metric, "--metric")
    own_metrics.check(own, list(lists_of([])), "--metric")
    check_writable(out, "--out")
    started = time.perf_counter()
    trusted = bool(options.get("trust_remote_code"))
    with as_hugging_face(model, trust_remote_code=trusted) as folder:
        scorer = RewardModel(folder, **options)
    scorer.name = model
    report, rows = evaluate(scorer, entry, limit=limit)
    if own:
        report["metrics"] = own_metrics.measure(own, lists_of(rows))
    report |= {"model": model, "seconds": round(time.perf_counter() - started, 2)}
    save(out, report, rows)
    print(
        f"accuracy = {report['accuracy']:.4f}, margin = {report['margin']:.4f}, calibration error = "
        f"{report['calibration_error']:.4f} on {report['pairs']} pairs of {report['dataset']} "
        f"({report['left_out']} rows left out), {report['seconds']:.1f} s: see {out / 'reliability.png'}"
    )
    for name, value in report.get("metrics", {}).items():
        print(f"{name} = {value:.4f}")
    return report


def lists_of(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Arguments of a user's metric. For each pair: whether the chosen answer has the higher score (`predictions`), and
    1 (`labels`). For each answer, chosen ones first: its score, and whether it was chosen."""
    chosen, rejected = [row["chosen"] for row in rows], [row["rejected"] for row in rows]
    return {
        "predictions": [int(one > other) for one, other in zip(chosen, rejected, strict=True)],
        "labels": [1] * len(rows),
        "predicted_rewards": [*chosen, *rejected],
        "human_ratings": [1] * len(rows) + [0] * len(rows),
        "chosen_scores": chosen,
        "rejected_scores": rejected,
    }


def evaluate(
    scorer: RewardModel, entry: PreferenceEntry, *, limit: int | None = None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns the report and each pair's scores. Raises DataError for data without pairs."""
    encoder = scorer.encoder
    encoder.max_length = scorer.max_length
    dataset = load_dataset(entry, "test", chat=encoder.chat)
    if limit is not None:
        dataset.indices = dataset.indices[:limit]
    data = PreferenceData([dataset], [], encoder, DrawSettings(shuffle=False, max_epochs=1))
    if not data.paired:
        raise DataError(f"{dataset.rows.name} has {data.kind}: a ranking is measured on pairs")
    rows: list[dict[str, Any]] = []
    with Progress(data.num_rows, "eval", 0) as progress:
        while samples := data.next(CHUNK):
            scores = scorer.score_tokens([sample.tokens_T.tolist() for sample in samples])
            for sample, chosen, rejected in zip(samples[0::2], scores[0::2], scores[1::2], strict=True):
                rows.append({"id": sample.unit, "chosen": chosen, "rejected": rejected})
            progress.update(len(rows), {}, sum(len(sample) for sample in samples))
    chosen_N, rejected_N = (torch.tensor([row[side] for row in rows]) for side in ("chosen", "rejected"))
    ranking = ranking_of(chosen_N, rejected_N)
    report = {
        "dataset": entry.dataset_name,
        "pairs": ranking.pairs,
        "left_out": data.counts["rows"] - ranking.pairs,
        "accuracy": ranking.accuracy,
        "margin": ranking.margin,
        "calibration_error": ranking.calibration_error,
        "bins": [dict(zip(("confidence", "accuracy", "pairs"), row, strict=True)) for row in ranking.bins],
    }
    return report, rows


@contextmanager
def as_hugging_face(model: str, *, trust_remote_code: bool = False) -> Iterator[str]:
    """A model's name; for a run's folder (or a step's), a temporary folder of its converted model."""
    path = Path(model).expanduser()
    is_run = path.is_dir() and ((path / "policy" / "weights").is_dir() or any(path.glob("step_*")))
    if not is_run:
        yield model
        return
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model"
        yield str(convert(*locate(path), out, trust_remote_code=trust_remote_code))


def save(out: Path, report: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write all files, the report last."""
    (out / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw_reliability(
        [(found["confidence"], found["accuracy"], found["pairs"]) for found in report["bins"]],
        [row["chosen"] - row["rejected"] for row in rows],
        out / "reliability.png",
        title=f"{Path(report['model']).name}: {report['accuracy']:.1%} of {report['pairs']} pairs ranked right",
        calibration_error=report["calibration_error"],
    )
    write_json(out / "report.json", report)
