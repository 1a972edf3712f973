"""`hone show RUN`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hone.config.paths import check_local
from hone.errors import ConfigError
from hone.report.run_view import RunView, open_run

if TYPE_CHECKING:
    from rich.console import Console

EPILOG = """\
examples:
  hone show results/run                           a summary; the last step's best and worst rollouts
  hone show results/run --step 10 --worst 5       the worst rollouts of step 10
  hone show results/run --failed                  rollouts that failed or were left out, and why
  hone show results/run --prompt 17               all rollouts of a prompt
  hone show results/run --validation --best 3     held-out samples
  hone show results/run --metrics reward,entropy  metrics by step
  hone show results/a --compare results/b         two runs: their metrics, and the settings that differ
  hone show results/run --html                    write report.html
  hone show data --config my.yaml                 before a run: its rows, tokenised and masked
"""


def command(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """`hone show RUN`. Raises HoneError for a folder that is not a run's, or a step, prompt or metric that it lacks."""
    parser.usage = "hone show RUN [what to show]"
    parser.epilog = EPILOG
    given = parser.add_argument
    given("run", metavar="RUN", help="a run's folder, or the folder of hone eval's results")
    given("--step", type=int, metavar="N", help="the step whose rollouts to show (default: the last)")
    given("--best", type=int, metavar="K", help="the K rollouts with the highest reward")
    given("--worst", type=int, metavar="K", help="the K rollouts with the lowest reward")
    given("--failed", action="store_true", help="rollouts that failed or were left out")
    given("--prompt", metavar="ID", help="all rollouts of one prompt, by its id or a part of it")
    given("--validation", action="store_true", help="held-out samples in place of rollouts")
    given("--metrics", metavar="NAMES", help="these metrics by step: name,name")
    given("--compare", metavar="RUN", help="another run, side by side with this one")
    given("--html", nargs="?", const="", metavar="FILE", help="write the HTML page (default: report.html)")
    options = vars(parser.parse_args(argv))
    for name in ("best", "worst"):
        if (count := options[name]) is not None and count < 1:
            raise ConfigError(f"--{name} {count}: give a number above 0")
    view, html = open_run(options.pop("run")), options.pop("html")
    if html is None:
        show(view, **options)
        return 0
    from hone.report.page import write_report

    check_local(html, "--html")
    print(f"wrote {write_report(view, Path(html) if html else None)}")
    return 0


def show(
    view: RunView,
    *,
    step: int | None = None,
    best: int | None = None,
    worst: int | None = None,
    failed: bool = False,
    prompt: str | None = None,
    validation: bool = False,
    metrics: str | Sequence[str] | None = None,
    compare: str | Path | None = None,
) -> None:
    """Print a run. Raises HoneError for a step, prompt or metric that it does not have."""
    from hone.report import terminal
    from hone.report.compare import compare as print_both

    console = console_of()
    if compare is not None:
        print_both(console, view, open_run(compare))
    elif metrics:
        names = metrics.split(",") if isinstance(metrics, str) else metrics
        terminal.show_metrics(console, view, [name.strip() for name in names if name.strip()])
    else:
        what = "validation" if validation else "rollouts"
        terminal.show(console, view, terminal.Selection(what, step, best, worst, failed, prompt))


def console_of() -> Console:
    """A console as wide as the terminal, with colours; elsewhere COLUMNS or 100 characters wide, without."""
    from rich.console import Console

    class Quiet(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # `| head`: the command ends without a message; rich would exit with 1

    console = Quiet(highlight=False, markup=False, emoji=False, soft_wrap=False)
    if console.is_terminal:
        console.width = min(console.width, 160)
    else:
        columns = os.environ.get("COLUMNS", "")
        console.width = int(columns) if columns.isdigit() and int(columns) >= 40 else 100
    return console
