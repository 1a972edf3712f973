"""What the site's build does to links, and which faults of a built site it finds."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def build_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_docs", ROOT / "scripts" / "build_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("link", "on_the_site"),
    [
        ("[x](../SECURITY.md#ray)", "[x](about/security.md#ray)"),
        ("[x](data.md)", "[x](data.md)"),
        ("[x](../Makefile)", "[x](https://host/hone/blob/main/Makefile)"),
        ("[x](https://example.org)", "[x](https://example.org)"),
        ("`[x](../SECURITY.md)`", "`[x](../SECURITY.md)`"),
        ("```\n[x](../SECURITY.md)\n```", "```\n[x](../SECURITY.md)\n```"),
    ],
)
def test_links_lead_to_pages_of_the_site(build_docs: ModuleType, link: str, on_the_site: str) -> None:
    assert build_docs.for_site(link, "docs/rl.md", "rl.md", "https://host/hone") == on_the_site


def test_a_link_without_a_page_is_text_when_no_website_is_known(build_docs: ModuleType) -> None:
    assert build_docs.for_site("[the Makefile](../Makefile)", "docs/rl.md", "rl.md", "") == "the Makefile"


def test_faults_of_a_built_site_are_found(build_docs: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "index.html").write_text(
        '<h2 id="there">x</h2><a href="../">up</a><a href="../b/">b</a>'
    )
    (tmp_path / "index.html").write_text(
        '<a href="a/#there">fine</a><a href="a/#gone">x</a><a href="https://example.org">other site</a>'
        '<script src="https://example.org/x.js"></script><link rel="stylesheet" href="a/index.html">'
    )
    (tmp_path / "x.css").write_text("@font-face { src: url('//example.org/font') }")
    assert build_docs.problems_of(tmp_path) == [
        "a/index.html: ../b/ leads nowhere",
        "index.html: loads https://example.org/x.js from another server",
        "index.html: a/#gone: that page has no such anchor",
        "x.css: loads //example.org/font from another server",
    ]
