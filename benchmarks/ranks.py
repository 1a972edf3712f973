"""SFT on Ray: what Ray costs (one rank against this process), and what a second rank brings. Trained tokens per second.

    python benchmarks/ranks.py --pairs 5

The model, rows and batches of sft_vs_trl.py; every rank computes on the CPU with `--threads` threads.
"""

from __future__ import annotations

import functools
from pathlib import Path

import common
import sft_vs_trl

RANKS = {"here": 0, "one rank": 1, "two ranks": 2}


def work(ranks: int, folder: Path, steps: int, threads: int) -> None:
    from hone.engine import build

    if ranks == 1:  # one device is never worth Ray, but here it is what is measured
        build.is_single_process = lambda cluster: False  # type: ignore[assignment]
    more = (f"cluster.cpu_workers_per_node={ranks}",) if ranks else ()
    sft_vs_trl.hone(folder, steps, threads, more)


if __name__ == "__main__":
    options = common.arguments(__doc__ or "")
    if options.worker:
        work(RANKS[options.worker], options.folder, options.steps, options.threads)
    else:
        prepare = functools.partial(sft_vs_trl.prepare, size=options.size)
        compare = functools.partial(common.compare, options, __file__, prepare, "tokens")
        compare(("one rank", "here"))
        compare(("two ranks", "one rank"))
