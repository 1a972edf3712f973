"""Write the table of docs/evaluation.md from the suites' YAML files; `--check` fails when it is out of date."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from hone.config.suite_names import suite_names
from hone.evaluation.suite import Suite, load_suite

PAGE = Path(__file__).resolve().parents[1] / "docs" / "evaluation.md"
TABLE = re.compile(r"(<!-- table: suites -->\n).*?(<!-- end -->)", re.DOTALL)


def row(suite: Suite) -> str:
    """A suite's line of the table."""
    data = (
        f"`{suite.data.name}`"
        + (f" `{suite.data.subset}`" if suite.data.subset else "")
        + f", {suite.data.split}"
    )
    examples = (
        f"{suite.fewshot.count} of {suite.fewshot.split}" if suite.fewshot and suite.fewshot.count else "none"
    )
    text, _, address = suite.paper.rpartition(", ")
    paper = suite.paper if ";" in suite.paper else f"[{text}]({address})"
    cells = (
        f"`{suite.name}`",
        str(suite.version),
        suite.title,
        suite.kind,
        f"`{suite.metric}`",
        data,
        examples,
        paper,
    )
    return f"| {' | '.join(cells)} |"


def table() -> str:
    """The table of all suites, and what each protocol is."""
    suites = [load_suite(name) for name in suite_names()]
    head = "| suite | version | what | kind | headline | data, split | examples (plain prompt) | paper |"
    lines = [head, "|---|---|---|---|---|---|---|---|", *map(row, suites), ""]
    lines += [f"- `{suite.name}`: {suite.protocol.strip()}" for suite in suites]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the page, or with `--check` compare it."""
    old = PAGE.read_text(encoding="utf-8")
    new = TABLE.sub(lambda match: match[1] + table() + match[2], old)
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(new, encoding="utf-8")
    elif new != old:
        print(f"{PAGE.name} is out of date: run {Path(__file__).name}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
