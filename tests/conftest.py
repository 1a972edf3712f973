"""Makes `tests/` importable, so that areas share `tiny` (models and samples of a few thousand numbers)."""

from __future__ import annotations

import signal

import pytest

# A shell starts what it puts into the background deaf to Ctrl-C, and so would be every run that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--shard", metavar="I/N", help="run every N-th test file, beginning with the I-th (from 1)"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the files of `--shard I/N`. Whole files, since the tests of one file share runs that take minutes."""
    if shard := config.getoption("--shard"):
        index, count = map(int, shard.split("/"))
        if not 1 <= index <= count:
            raise pytest.UsageError(f"--shard {shard}: I is between 1 and N")
        kept = set(sorted({item.path for item in items})[index - 1 :: count])
        config.hook.pytest_deselected(items=[item for item in items if item.path not in kept])
        items[:] = [item for item in items if item.path in kept]
