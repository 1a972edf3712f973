"""The commands and code of docs/tutorials/ run in the order of the page and print what the page shows.

A block ```bash runs with `bash -e`; a block with title="FILE" is written to that file; a block ```text is the output of
the block before it. In an output a word with a digit or a path stands for any word, `…` for the rest of a line, and a
line `...` for any lines. An HTML comment in front of a block changes that:

- `<!-- not run -->`: it needs a network, a GPU or several machines.
- `<!-- fails -->`: the command ends with an error.
- `<!-- of that model -->`: compared only where HONE_REAL_MODEL names the model of the page.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import hone

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
TUTORIALS = DOCS / "tutorials"
TINY = Path(hone.__file__).parent / "embedded" / "tiny-sft"
PAGES = [*sorted(TUTORIALS.glob("*.md")), DOCS / "coming-from" / "verl.md"]
SHORT = ("first-run", "own-reward")
"""Pages that take less than a minute."""
BLOCK = re.compile(
    r"^(?:<!-- ([a-z ]+) -->\n)?```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```", re.DOTALL | re.MULTILINE
)
PIECES = re.compile(r"[\u2500-\u259f⟦⟧…]+")
"""Lines of boxes, sparklines and marks, whose lengths depend on numbers."""
SAMPLE = re.compile(r"[╭╰]|│(?! failed:)")
"""Lines of a rollout in a box, but its failure: what a model samples depends on the processor and on versions."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    comment: str
    language: str
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [
        Block(*(part or "" for part in found)) for found in BLOCK.findall(page.read_text(encoding="utf-8"))
    ]


def pattern(line: str) -> re.Pattern[str]:
    """What a shown line matches: words with a digit or a path match any word."""
    words = PIECES.sub(" ", line).split()
    return re.compile(r"\s+".join(r"\S+" if re.search(r"[\d/]", word) else re.escape(word) for word in words))


def missing(shown: str, printed: str) -> list[str]:
    """Lines of `shown` that `printed` does not have in their order."""
    lines = iter([" ".join(PIECES.sub(" ", line).split()) for line in printed.splitlines()])
    wanted = [
        line for line in shown.splitlines() if line.strip() not in ("", "...") and not SAMPLE.match(line)
    ]
    return [line for line in wanted if not any(pattern(line).search(found) for found in lines)]


def run(block: Block, folder: Path) -> str:
    """What the block's commands print; fails the test when they end otherwise than the page says."""
    scripts = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "MODEL": os.environ.get("HONE_REAL_MODEL", str(TINY)),
        "PYTHONUNBUFFERED": "1",
    }
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", block.text],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    assert (done.returncode != 0) == (block.comment == "fails"), f"{block.text}\n{done.stdout}"
    return done.stdout


def is_of_this_model(block: Block) -> bool:
    """Whether the model of this test prints what the block shows."""
    return block.comment != "of that model" or "HONE_REAL_MODEL" in os.environ


def play(page: Path, folder: Path) -> list[tuple[Block, str]]:
    """Run a page from top to bottom; each block that ran, with what it printed."""
    shutil.copytree(REPOSITORY / "examples", folder / "examples")
    played: list[tuple[Block, str]] = []
    for block in blocks(page):
        if block.comment == "not run":
            played.append((block, ""))
        elif block.title:
            (folder / block.title).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "bash":
            played.append((block, run(block, folder)))
        elif block.language == "text":
            command, printed = played[-1]
            absent = missing(block.text, printed) if printed and is_of_this_model(block) else []
            assert not absent, f"{page.name} shows {absent}, but\n{command.text}printed\n{printed}"
    return played


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page if page.stem in SHORT else pytest.param(page, marks=pytest.mark.long) for page in PAGES],
    ids=lambda page: page.stem,
)
def test_a_page_runs_from_top_to_bottom_and_prints_what_it_shows(page: Path, tmp_path: Path) -> None:
    if "cpu_workers_per_node" in page.read_text(encoding="utf-8"):
        pytest.importorskip("ray")
    assert any(printed for _, printed in play(page, tmp_path))


def test_every_block_of_a_page_is_run_written_compared_or_marked() -> None:
    assert PAGES
    for page in PAGES:
        found = blocks(page)
        assert len(found) == page.read_text(encoding="utf-8").count("\n```") / 2, page.name
        for block in found:
            assert block.comment in ("", "not run", "fails", "of that model"), (page.name, block.comment)
            assert block.language in ("bash", "text") or block.title or block.comment, (page.name, block.text)


def test_shown_lines_match_with_other_numbers_and_in_order_only() -> None:
    printed = "step 1/20  loss 6.2  left 3s\n│ failed: x   │\nsaved results/a/step_20\n"
    assert missing("step 9/90  loss 5.1  left 1m02s\n...\nsaved out/b/step_3\n", printed) == []
    assert missing("│ any answer │\n│ failed: x │\n", printed) == []
    assert missing("│ failed: y │\n", printed) == ["│ failed: y │"]
    assert missing("saved results/a/step_20\nstep 1/20  loss 6.2  left 3s\n", printed) == [
        "step 1/20  loss 6.2  left 3s"
    ]
    assert missing("step 1/20  reward 6.2\n", printed) == ["step 1/20  reward 6.2"]
