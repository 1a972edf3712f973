"""`hone show data`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hone.cli.arguments import RUN_COMMANDS
from hone.cli.show import console_of
from hone.errors import ConfigError, DataError
from hone.units import counted

EPILOG = """\
examples:
  hone show data sft --config my.yaml                                    the first rows that the run draws
  hone show data sft data.train.dataset_name=rows.jsonl --rows 0,17      these rows
  hone show data dpo data.train.dataset_name=pairs.jsonl --html          a page: data.html
  hone show data grpo --config rl.yaml --validation                      held-out prompts

Rows are read, checked, tokenised and masked as in the run; no model is loaded. Rows that would stop the run are listed,
and the exit code is then 1.
"""


def command(
    parser: argparse.ArgumentParser, argv: Sequence[str], load: Callable[[str | None, list[str]], Any]
) -> int:
    """`hone show data`; `load` reads settings from a file and overrides.

    Raises HoneError for what would stop the run before its first step, and for refused rows after they are printed.
    """
    parser.usage = f"hone show data [{'|'.join(RUN_COMMANDS)}] [what to show] [--config FILE] [key=value ...]"
    parser.epilog = EPILOG
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings")
    parser.add_argument("--count", type=int, default=3, metavar="N", help="number of rows (default: 3)")
    parser.add_argument("--rows", metavar="ROWS", help="these rows: 0,17 or DATASET:17, counted from 0")
    parser.add_argument("--validation", action="store_true", help="held-out rows")
    about = "write an HTML page (default: data.html)"
    parser.add_argument("--html", nargs="?", const="data.html", metavar="FILE", help=about)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the file's")
    options = parser.parse_intermixed_args(argv)
    if options.count < 1:
        raise ConfigError(f"--count {options.count}: give a number above 0")
    loaded = load(options.config, options.overrides)
    from hone.report import data_page, data_preview, data_terminal

    rows = [row.strip() for row in options.rows.split(",") if row.strip()] if options.rows else []
    view = data_preview.gather(loaded, count=options.count, rows=rows, validation=options.validation)
    if options.html is not None:
        print(f"wrote {data_page.write_page(view, Path(options.html))}")
    else:
        data_terminal.show(console_of(), view)
    if count := len(view.refused):
        raise DataError(
            f"a run stops at {counted(count, 'row')} of this data: correct or remove what is refused"
        )
    return 0
