"""`hone eval compare BASELINE MODEL …`: paired comparisons of models, runs, checkpoints, or results that are there."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hone.cli import win_rates
from hone.cli.show import console_of
from hone.config.loading import files
from hone.errors import ConfigError
from hone.evaluation.comparison import Comparison, Scores, compare, is_results, read_results
from hone.evaluation.comparison_plot import draw_comparison
from hone.evaluation.statistics import estimate
from hone.files import write_json
from hone.lazy import lazy
from hone.report.formatting import clean
from hone.report.terminal import plain_table
from hone.training.process import check_writable

EPILOG = """\
examples:
  hone eval compare results/eval/old results/eval/new            results of hone eval that are there
  hone eval compare MODEL results/run suite=gsm8k limit=200      a model and a run, evaluated now
  hone eval compare results/run suite=gsm8k                      a run and the model that it began with
  hone eval compare results/run/step_{10,20,30} suite=gsm8k      the curve of a run's checkpoints
  hone eval compare A B --judge URL --judge_model NAME           also: whose answers a judge prefers
"""
SHOWN = 8
"""Ids of problems that are printed for each comparison; comparison.json has all."""


def command(parser: argparse.ArgumentParser, argv: Sequence[str], load_any: Callable[..., Any]) -> int:
    """`hone eval compare` with its arguments. Raises HoneError for models without a common suite."""
    parser.usage = (
        "hone eval compare BASELINE MODEL [MODEL ...] [--out FOLDER] [--config FILE] [key=value ...]"
    )
    parser.epilog = EPILOG
    parser.add_argument(
        "words", nargs="+", metavar="MODEL", help="models or folders of results, then settings"
    )
    parser.add_argument("--out", default="results/compare", metavar="FOLDER", help="default: results/compare")
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings of hone eval")
    win_rates.add_options(parser)
    options = parser.parse_intermixed_args(argv)
    ask = win_rates.asker(options)
    overrides = [word for word in options.words if "=" in word or word.startswith("~")]
    models = [word for word in options.words if word not in overrides]
    models = models if len(models) > 1 else with_baseline(models)
    out = Path(options.out)
    check_writable(out, "--out")
    names = labels(models)
    results: dict[str, Mapping[str, Scores]] = {}
    for model, name in zip(models, names, strict=True):
        folder = Path(model).expanduser()
        if not is_results(folder):
            folder = _evaluated(model, out / name.replace("/", "_"), options.config, overrides, load_any)
        results[name] = read_results(folder)
    report(names[0], results, out, ask)
    return 0


def with_baseline(models: Sequence[str]) -> list[str]:
    """The model that a run began with, and the run. Raises ConfigError for anything else that stands alone."""
    for model in models:
        path = Path(model).expanduser() / "config.yaml"
        if path.is_file() and (start := (files.read(path).get("policy") or {}).get("model_name")):
            return [str(start), model]
    raise ConfigError(
        f"hone eval compare {' '.join(models)}: give two models or folders of results, the baseline first. One alone "
        "is compared with the model that it began with, if it is a run's folder"
    )


def labels(models: Sequence[str]) -> list[str]:
    """Short names that differ: the last parts of paths. Raises ConfigError for a model that is named twice."""
    for parts in range(1, 16):
        names = ["/".join(Path(model).parts[-parts:]) for model in models]
        if len(set(names)) == len(names):
            return names
    raise ConfigError(f"hone eval compare {' '.join(models)}: one of them is named twice")


def _evaluated(
    model: str, folder: Path, config: str | None, overrides: Sequence[str], load_any: Callable[..., Any]
) -> Path:
    given = ["eval", *overrides, f"generation.model_name={model}", f"eval.save_path={folder}"]
    loaded = load_any(config, given)
    print(f"evaluating {model}", flush=True)
    lazy("hone.evaluation:main")(loaded)
    return folder


def report(
    baseline: str, results: Mapping[str, Mapping[str, Scores]], out: Path, ask: win_rates.Ask | None = None
) -> list[Comparison]:
    """Print the table and the problems that flipped, with `ask` also win rates; write comparison.json and
    comparison.png."""
    others = {name: found for name, found in results.items() if name != baseline}
    comparisons = compare(results[baseline], others)
    table = plain_table(
        "model", "suite", ">problems", f">{clean(baseline)}", ">score", ">difference", ">p", "verdict"
    )
    for one in comparisons:
        test = one.test
        verdict = ("better" if test.difference > 0 else "worse") if one.differs else "no difference found"
        interval = f"{100 * test.difference:+.1f} [{100 * test.low:+.1f}, {100 * test.high:+.1f}]"
        cells = (str(one.other.problems), f"{one.baseline.mean:.1%}", f"{one.other.mean:.1%}", interval)
        table.add_row(
            clean(one.model), f"{clean(one.suite)} ({one.metric})", *cells, f"{one.p_adjusted:.3g}", verdict
        )
    console = console_of()
    console.print(table)
    for one in comparisons:
        head = f"{clean(one.model)} on {clean(one.suite)}: {one.test.method}"
        console.print(f"\n{head}; {len(one.gained)} problems better, {len(one.lost)} worse", style="bold")
        for name, ids in (("better", one.gained), ("worse", one.lost)):
            more = f" … {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
            console.print(clean(f"  {name}: {', '.join(ids[:SHOWN]) or 'none'}{more}"))
        if one.unpaired:
            console.print(f"  {one.unpaired} problems are left out: only one of the two answered them")
    found: dict[str, Any] = {"baseline": baseline, "comparisons": [c.as_dict() for c in comparisons]}
    if ask is not None:
        found["win_rates"] = win_rates.report(console, ask, results, out)
    write_json(out / "comparison.json", found)
    scores = {
        name: {suite: estimate([*found.values.values()]) for suite, found in suites.items()}
        for name, suites in results.items()
    }
    draw_comparison(baseline, scores, comparisons, out / "comparison.png")
    console.print(f"\n{out / 'comparison.png'}, {out / 'comparison.json'}", soft_wrap=True)
    return comparisons
