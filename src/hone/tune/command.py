"""`hone tune`: a search over settings, each trial the real command in a process of its own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from hone.tune import results, settings
from hone.tune.study import Tuner

ABOUT = """\
ranges (quote them: brackets have a meaning in a shell):
  key=log(1e-6, 1e-3)     a float, log-uniform; logint(8, 512) an integer
  key=uniform(0, 0.1)     a float
  key=int(1, 8)           an integer; int(8, 64, 8) a multiple of 8
  key=choice(8, 16, 32)   one of these
Any other key=value applies to every trial. The same command resumes a stopped search; with more --trials it continues a
finished one.
"""


def command(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """Parse the arguments, search, and print the best trial."""
    parser.usage = "hone tune COMMAND [--config FILE] [--study FILE] [--trials N] key=RANGE ... [key=value]"
    parser.epilog = ABOUT
    parser.add_argument("words", nargs="*", metavar="COMMAND key=RANGE", help="training command, then keys")
    for option, metavar, text in (
        ("--config", "FILE", "YAML file of settings that every trial starts from"),
        ("--study", "FILE", "YAML file of the search (see docs/tuning.md)"),
        ("--metric", "NAME", "column of metrics.csv (default: checkpointing.metric_name)"),
        ("--direction", "min|max", "whether a lower or a higher value is better"),
        ("--pruner", "NAME", f"{', '.join(settings.PRUNERS)} (default: median)"),
        ("--folder", "FOLDER", "the study's folder (default: results/tune_COMMAND)"),
        ("--keep", "best|all", "which trials keep their checkpoints (default: best)"),
    ):
        parser.add_argument(option, metavar=metavar, help=text)
    for option, text in (
        ("--trials", "number of trials (default: 20)"),
        ("--parallel", "concurrent trials (default: 1)"),
        ("--seed", "seed of the sampler (default: 0)"),
    ):
        parser.add_argument(option, type=int, metavar="N", help=text)
    search = settings.read(parser.parse_intermixed_args(argv))
    results.announce(_summary(search, Tuner(search).run()))
    return 0


def _summary(search: settings.Search, found: dict[str, object]) -> str:
    counts = f"{found['trials']} trials, {found['pruned']} stopped early, {found['failed']} failed"
    if found["best"] is None:
        return f"{counts}: no trial completed, so there is no best one"
    return (
        f"{counts}: the best is trial {found['best']}, {found['metric']} {found['value']:.6g}. Train with it: hone "
        f"{search.algorithm} --config {search.folder / 'best.yaml'}; study.png and trials.csv are in {search.folder}"
    )
