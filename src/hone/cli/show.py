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
  hone show results/grpo                           how it went; the last step's best and worst rollouts
  hone show results/grpo --step 10 --worst 5       of one step
  hone show results/grpo --failed                  what failed or was left out, and why
  hone show results/grpo --prompt 17               the whole group of a prompt
  hone show results/grpo --validation --best 3     held-out samples
  hone show results/grpo --metrics reward,entropy  step by step
  hone show results/a --compare results/b          numbers and settings beside each other
  hone show results/grpo --html                    write report.html
  hone show data sft --config my.yaml              before a run: its rows as they will be tokenised and masked
"""


def command(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """Show a run as the arguments say. Raises HoneError for what is no run, or has nothing of what is asked for."""
    parser.usage = "hone show RUN [what to show]"
    parser.epilog = EPILOG
    parser.add_argument("run", metavar="RUN", help="a run's folder, or where hone eval saved")
    parser.add_argument(
        "--step", type=int, metavar="N", help="the step whose rollouts to show (default: the last)"
    )
    parser.add_argument("--best", type=int, metavar="K", help="the K rollouts with the highest reward")
    parser.add_argument("--worst", type=int, metavar="K", help="the K rollouts with the lowest reward")
    parser.add_argument("--failed", action="store_true", help="rollouts that failed or were left out")
    parser.add_argument("--prompt", metavar="ID", help="all rollouts of one prompt, by (a part of) its id")
    parser.add_argument("--validation", action="store_true", help="held-out samples rather than rollouts")
    parser.add_argument("--metrics", metavar="NAMES", help="these metrics, step by step: name,name")
    parser.add_argument("--compare", metavar="RUN", help="another run, beside this one")
    parser.add_argument(
        "--html", nargs="?", const="", metavar="FILE", help="write the page (default: report.html)"
    )
    options = parser.parse_args(argv)
    for name in ("best", "worst"):
        if (count := getattr(options, name)) is not None and count < 1:
            raise ConfigError(f"--{name} {count}: give a number above 0")
    view = open_run(options.run)
    if options.html is not None:
        from hone.report.page import write_report

        check_local(options.html, "--html")
        print(f"wrote {write_report(view, Path(options.html) if options.html else None)}")
        return 0

    show(
        view,
        step=options.step,
        best=options.best,
        worst=options.worst,
        failed=options.failed,
        prompt=options.prompt,
        validation=options.validation,
        metrics=options.metrics,
        compare=options.compare,
    )
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
    """Print a run. Raises HoneError for what it does not have."""
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
    """Colours and the window's width on a terminal; elsewhere neither, and COLUMNS or 100 characters a line."""
    from rich.console import Console

    class Quiet(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # `| head`: the command line ends without a word; rich would exit with 1

    console = Quiet(highlight=False, markup=False, emoji=False, soft_wrap=False)
    if console.is_terminal:
        console.width = min(console.width, 160)
    else:
        columns = os.environ.get("COLUMNS", "")
        console.width = int(columns) if columns.isdigit() and int(columns) >= 40 else 100
    return console
