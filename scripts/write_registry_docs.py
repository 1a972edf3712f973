"""Write the tables of docs/add-an-algorithm.md from src/hone/registry.py; `--check` fails when they are out of date."""

from __future__ import annotations

import ast
import re
import sys
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "add-an-algorithm.md"
TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(name: str) -> str:
    """A row for each field of a dataclass of the registry: its name, type, default and docstring."""
    tree = ast.parse((ROOT / "src" / "hone" / "registry.py").read_text())
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for node, after in zip_longest(found.body, found.body[1:]):
        if isinstance(node, ast.AnnAssign):
            if not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)):
                raise SystemExit(f"{name}.{ast.unparse(node.target)} has no docstring")
            default = f"`{ast.unparse(node.value)}`" if node.value is not None else ""
            meaning = " ".join(str(after.value.value).split())
            cells = (f"`{ast.unparse(node.target)}`", f"`{ast.unparse(node.annotation)}`", default, meaning)
            rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def main() -> int:
    """Write the page, or with `--check` compare it."""
    old = PAGE.read_text()
    new = TABLE.sub(lambda match: match[1] + table(match[2]) + match[3], old)
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(new)
    elif new != old:
        print(f"{PAGE.name} is out of date: run {Path(__file__).name}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
