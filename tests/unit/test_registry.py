"""The registry, and which other files still name an algorithm."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from hone.registry import BUILTIN

SOURCE = Path(__file__).resolve().parents[2] / "src" / "hone"
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
APART = ("registry.py", "algorithms/", "config/compat/", "embedded/", "demo.py")
"""The entries; the algorithms; the names of other projects; the embedded tasks, whose splits have their own names; a
demonstration of two algorithms."""


def docstrings(tree: ast.AST) -> set[int]:
    """Texts that stand alone: docstrings of modules, classes, functions and attributes."""
    return {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


FOREIGN = re.compile(
    r"disable_ppo_ratio|sft_loss_weight|sft_average_log_probs|hone/tiny-sft|tulu\S*sft\S*|RMSprop|eval[-_]rm|"
    r"it\|rm\||\(\?:rm"
)
"""Names of other things: settings of losses, an embedded model, datasets of the hub, an optimizer of torch, a command
that measures reward models, fonts of LaTeX."""


def names_in(path: Path) -> Iterator[tuple[int, str]]:
    """Identifiers, and words of texts that are no docstrings."""
    tree = ast.parse(path.read_text())
    prose = docstrings(tree)
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield line, node.value
        elif isinstance(node, ast.ImportFrom):
            yield line, node.module or ""
            yield from ((line, alias.name) for alias in node.names)
        elif isinstance(node, ast.Name):
            yield line, node.id
        elif isinstance(node, ast.Attribute):
            yield line, node.attr
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield line, node.name


@functools.cache
def named(text: str) -> frozenset[str]:
    words = [word.lower() for word in WORD.findall(FOREIGN.sub("", text))]
    text = " ".join(words)
    found = {"online-dpo"} if "online dpo" in text else set()
    words = text.replace("online dpo", "").split()
    return frozenset(found | {spec.name for spec in BUILTIN if {spec.name, spec.section} & {*words}})


def places() -> dict[str, list[str]]:
    """Files that name an algorithm which they are not about, with what they say."""
    found: dict[str, list[str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        name = str(path.relative_to(SOURCE))
        if name.startswith(APART):
            continue
        own = {path.stem.replace("_", "-")} if name.startswith("config/schema/") else set()
        for line, text in names_in(path):
            if named(text) - own:
                found.setdefault(name, []).append(f"{line}: {text[:60]}")
    return found


FILES_LEFT = 3
"""Files outside the algorithms that still name one: to become none."""

CLEAN = (
    "training/online.py",
    "training/supervised.py",
    "rollout/sampler.py",
    "report/",
    "checkpoint/",
    "export/",
)
"""Where no algorithm is named today, and none is to be named again."""


def test_no_more_files_name_an_algorithm_than_did() -> None:
    found = places()
    assert len(found) <= FILES_LEFT, found
    assert [name for name in found if name.startswith(CLEAN)] == []
