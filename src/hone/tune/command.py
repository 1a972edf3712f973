"""`hone tune`: a search over settings, each trial the real command in a process of its own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from hone.tune import results, settings
from hone.tune.study import Tuner

ABOUT = """\
ranges (quote them: a shell knows brackets too):
  key=log(1e-6, 1e-3)     a number, uniform in its logarithm; logint(8, 512) a whole one
  key=uniform(0, 0.1)     a number
  key=int(1, 8)           a whole number; int(8, 64, 8) every eighth
  key=choice(8, 16, 32)   one of these
Any other key=value holds in every trial. The same command again goes on where the search was stopped, or, with more
--trials, further.
"""


def command(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """Read the arguments, search, and say what was found."""
    parser.usage = (
        "hone tune COMMAND [--config FILE] [--study FILE] [--trials N] key=RANGE ... [key=value ...]"
    )
    parser.epilog = ABOUT
    parser.add_argument(
        "words", nargs="*", metavar="COMMAND key=RANGE", help="sft, dpo, rm, grpo, ...; then keys"
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings that every trial begins with")
    parser.add_argument("--study", metavar="FILE", help="YAML file of the search itself (see docs/tuning.md)")
    parser.add_argument("--trials", type=int, metavar="N", help="trials in all (default: 20)")
    parser.add_argument("--parallel", type=int, metavar="N", help="trials at once (default: 1)")
    parser.add_argument(
        "--metric", metavar="NAME", help="column of metrics.csv (default: checkpointing.metric_name)"
    )
    parser.add_argument("--direction", metavar="min|max", help="whether less or more of it is better")
    parser.add_argument("--pruner", metavar="NAME", help=f"{', '.join(settings.PRUNERS)} (default: median)")
    parser.add_argument(
        "--folder", metavar="FOLDER", help="the study's folder (default: results/tune_COMMAND)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of the choice of values (default: 0)")
    parser.add_argument("--keep", metavar="best|all", help="whose checkpoints are kept (default: best)")
    search = settings.read(parser.parse_intermixed_args(argv))
    found = Tuner(search).run()
    results.announce(_ending(search, found))
    return 0


def _ending(search: settings.Search, found: dict[str, object]) -> str:
    counts = f"{found['trials']} trials, {found['pruned']} stopped early, {found['failed']} failed"
    if found["best"] is None:
        return f"{counts}: none reached its end, so there is no best one"
    return (
        f"{counts}: the best is trial {found['best']}, {search.column} {found['value']:.6g}. Train with it: hone "
        f"{search.algorithm} --config {search.folder / 'best.yaml'}; study.png and trials.csv are in {search.folder}"
    )
