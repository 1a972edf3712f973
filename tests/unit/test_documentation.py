"""Links of the repository's pages lead somewhere, every page is in the site's navigation, what it documents exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "benchmarks" / "RESULTS.md",
]
CODE = re.compile(r"^ {0,3}(```|~~~).*?^ {0,3}\1|`[^`\n]+`", re.DOTALL | re.MULTILINE)


def anchors_of(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"^ {0,3}(```|~~~).*?^ {0,3}\1", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^()\s]+)\)", CODE.sub("", page.read_text())):
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        if "://" in link or link.startswith("mailto:"):
            continue
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors_of(file)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_named_in_code_exist(page: Path) -> None:
    named = re.findall(r"`((?:src|tests|docs|examples|scripts|benchmarks)/[\w./*-]+)`", page.read_text())
    assert not [name for name in named if not any(ROOT.glob(name.rstrip("/")))]


def test_every_page_is_in_the_navigation_once() -> None:
    listed = re.findall(r"^ +- (?:.*: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert sorted(name for name in listed if not name.startswith("about/")) == sorted(pages)


def documented() -> list[str]:
    return [name for page in PAGES for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)]


@pytest.mark.parametrize("name", documented())
def test_what_the_reference_documents_exists(name: str) -> None:
    parts, inner = name.split("."), []
    while not (found := module_of(parts)):
        inner.insert(0, parts.pop())
        assert parts, f"no module of {name}"
    body: list[ast.stmt] = ast.parse(found.read_text()).body
    for part in inner:
        node = next((node for node in body if getattr(node, "name", None) == part), None)
        assert node is not None, f"{found} defines no {part}"
        body = getattr(node, "body", [])


def module_of(parts: list[str]) -> Path | None:
    path = ROOT / "src" / Path(*parts)
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
