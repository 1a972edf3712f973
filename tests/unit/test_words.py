"""No name is one that a reader of torch.distributed, vLLM, TRL and the papers would have to look up."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "hone"

FILES = """
beside place machine machines layout spread ranks pulse watch stream make source filling collect
shaping turns dialog outcome seats child lanes of_verifiers form lengths parts sides spans cursor
comparisons scalar shape traits surrogate correction passes high_entropy pairs preferences spellings
given trees changes document upstream words course story table folder of_run picture guard importing
loop seeing methods hold
"""
"""Names that files and folders had before they got those of the field."""

NAMES = """
Source Wanted Filled Played Host Seat Place Moment Part Drawn Knobs GroupRule How Atom Own Layout
Ranks Run RewardedConfig by_objective charges closed everyone taught put_away likeliest silent at_N
keeps_packed_apart shares_prompts referred several keep_going run_alone hears_signals spare_the_hub
own_part settle said told high_entropy surrogate spellings
"""
"""Classes, functions, variables."""

ELSEWHERE = {
    "config/compat",
    "data/preferences.py",
    "config/checks/preferences.py",
    "config/dependent_defaults/preferences.py",
}
"""Where a name of the list is the standard term."""


def names_in(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.alias):
            found |= {node.name.rpartition(".")[2], node.asname or ""}
    return found


def private_words(path: Path) -> set[str]:
    where = path.relative_to(SOURCE)
    found = names_in(ast.parse(path.read_text())) & set(NAMES.split())
    if not str(where).startswith(tuple(ELSEWHERE)):
        found |= set(where.with_suffix("").parts) & set(FILES.split())
    return found


def test_no_private_word_is_a_name() -> None:
    found = {str(path.relative_to(SOURCE)): private_words(path) for path in sorted(SOURCE.rglob("*.py"))}
    assert {where: words for where, words in found.items() if words} == {}


if __name__ == "__main__":
    for path in sorted(SOURCE.rglob("*.py")):
        if words := private_words(path):
            print(path.relative_to(SOURCE), *sorted(words))
