"""Every setting that a page of docs/ names exists, and every link of a page leads somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hone.config import dialects, keys
from hone.config.schema import ROOTS, section_of

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if page.name != "configuration.md")
FILES = ("yaml", "log", "html", "csv", "json", "jsonl", "png")
SECTIONS = {name for root in ROOTS.values() for name in root.model_fields} | {"LOOP"}
KEY = re.compile(r"[A-Za-z_]\w*(?:\.\w+)+")
FAILS = re.compile(r"^<!-- fails -->\n```.*?^```", re.DOTALL | re.MULTILINE)
FENCE = re.compile(r"^```(\w*).*?\n(.*?)^```", re.DOTALL | re.MULTILINE)


def spelled(text: str) -> Iterator[str]:
    """Dotted keys in backticks and in commands."""
    text = FAILS.sub("", text)
    prose = FENCE.sub("", text)
    quoted = [
        *re.findall(r"`([^`]+)`", prose),
        *(code for language, code in FENCE.findall(text) if language == "bash"),
    ]
    quoted += re.findall(r"^    (hone .*|[^|]*\w+\.\w+=.*)$", prose, re.MULTILINE)
    for code in quoted:
        for word in re.split(r"[\s,'\"(]+", code):
            name = word.lstrip("+~").partition("=")[0]
            if KEY.fullmatch(name) and name.partition(".")[0] in SECTIONS and not name.endswith(FILES):
                yield name


def exists(name: str) -> bool:
    """Whether some command has the key, as its own or as a spelling that it accepts or refuses by name."""
    for kind, root in ROOTS.items():
        path = tuple((section_of(kind) if part == "LOOP" else part) for part in name.split("."))
        if keys.find(root, path).what != "unknown":
            return True
        if any(
            alias == ".".join(path) or alias.startswith(f"{'.'.join(path)}.")
            for alias in dialects.aliases(kind)
        ):
            return True
        if any(rule.matches(path) for rule in dialects.rules(kind)):
            return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_every_setting_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if page.name == "verl.md":  # the first column, and the command that is verl's
        text = re.sub(r"^\| [^|]* \|", "|", text, flags=re.MULTILINE)
        text = re.sub(r"^```bash\npython3 .*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    unknown = sorted({name for name in spelled(text) if not exists(name)})
    assert not unknown, f"{page.name} names settings that no command has: {unknown}"


def test_names_in_prose_and_in_commands_are_looked_at() -> None:
    text = "`policy.a=1` and\n```bash\nhone sft data.b=x.jsonl 'env.c=[d.py:e]'\n```\n"
    assert list(spelled(text)) == ["policy.a", "data.b", "env.c"]
    assert exists("policy.model_name")
    assert exists("LOOP.max_num_steps")
    assert not exists("policy.a")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_links_between_pages_lead_to_files_and_headings(page: Path) -> None:
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in slugs, f"{page.name}: {target}"
