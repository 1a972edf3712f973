"""Build the documentation site: stage its pages, run the site generator strictly, check what it wrote.

Pages are the files of docs/ and those of `PAGES`, which lie elsewhere in the repository. A link is written as it works
in the repository (`../SECURITY.md`, `docs/data.md`). On the site it leads to the page of that file; to the repository's
website where the file has no page; and is plain text where no website is known (`HONE_REPOSITORY_URL`). Formulas
between dollars become MathML, which browsers draw without a script.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STAGED = ROOT / "build" / "docs"
SITE = ROOT / "site"

PAGES = {
    "ARCHITECTURE.md": "about/architecture.md",
    "CHANGELOG.md": "about/changelog.md",
    "CODE_OF_CONDUCT.md": "about/code-of-conduct.md",
    "CONTRIBUTING.md": "about/contributing.md",
    "SECURITY.md": "about/security.md",
    "benchmarks/RESULTS.md": "about/measurements.md",
}
"""File of the repository -> page of the site, beside the files of docs/."""

LINK = re.compile(r"(?<!!)\[(?P<text>[^\[\]]*)\]\((?P<target>[^()\s]+)\)")
FORMULA = re.compile(r"(?<![\\$\w])\$(?=[^\s$])(?P<latex>[^$\n]+)(?<=\S)\$(?![\w$])")
CODE = re.compile(r"^ {0,3}(```|~~~).*?^ {0,3}\1|`[^`\n]+`", re.DOTALL | re.MULTILINE)


def main() -> int:
    shutil.rmtree(STAGED, ignore_errors=True)
    shutil.rmtree(SITE, ignore_errors=True)
    stage(os.environ.get("HONE_REPOSITORY_URL", ""))
    if code := subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--clean", "--strict"], cwd=ROOT
    ).returncode:
        return code
    problems = list(problems_of(SITE))
    print("\n".join(problems), file=sys.stderr)
    return 1 if problems else 0


def stage(website: str) -> None:
    """Copy docs/ and `PAGES` to `STAGED`, with links as the site needs them."""
    shutil.copytree(ROOT / "docs", STAGED)
    sources = {page: file for file, page in PAGES.items()}
    for file, page in PAGES.items():
        (STAGED / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, STAGED / page)
    for path in STAGED.rglob("*.md"):
        page = path.relative_to(STAGED).as_posix()
        path.write_text(for_site(path.read_text(), sources.get(page, f"docs/{page}"), page, website))


def for_site(markdown: str, source: str, page: str, website: str) -> str:
    """The text of file `source`, with the links that it needs as `page` of the site. What looks like a link in code is
    none."""
    parts, start = [], 0
    for code in [*CODE.finditer(markdown), None]:
        prose = markdown[start : code.start() if code else None]
        prose = LINK.sub(lambda link: _site_link(link, source, page, website), prose)
        parts.append(FORMULA.sub(_formula, prose))
        if code:
            # In a table GitHub wants `|` escaped inside code, and the site's Markdown does not.
            parts.append(code.group() if code[1] else code.group().replace("\\|", "|"))
            start = code.end()
    return "".join(parts)


def _formula(formula: re.Match[str]) -> str:
    from latex2mathml.converter import convert  # of the extra `docs`

    return (
        f"<span>{convert(formula['latex'])}</span>"  # without the span a line that begins with it is a block
    )


def _site_link(link: re.Match[str], source: str, page: str, website: str) -> str:
    target, _, anchor = link["target"].partition("#")
    file = os.path.normpath(os.path.join(os.path.dirname(source), target))
    if not target or "://" in target or target.startswith("mailto:") or not (ROOT / file).exists():
        return link.group()
    there = PAGES.get(file) or (file.removeprefix("docs/") if file.startswith("docs/") else None)
    if there is not None:
        address = os.path.relpath(there, os.path.dirname(page) or ".") + (f"#{anchor}" if anchor else "")
        return f"[{link['text']}]({address})"
    return f"[{link['text']}]({website.rstrip('/')}/blob/main/{file})" if website else link["text"]


class _Page(HTMLParser):
    """What a built page loads and links to, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "link" and values.get("rel") not in ("canonical", "prev", "next", "alternate"):
            self.loaded.append(values.get("href", ""))
        self.loaded += [values[name] for name in ("src", "srcset", "poster") if values.get(name)]


def problems_of(site: Path) -> list[str]:
    """Links and anchors of a built site that lead nowhere, and what its pages load from another server."""
    pages = {path: _Page(path.read_text()) for path in site.rglob("*.html")}
    problems = []
    for path, page in sorted(pages.items()):
        where = path.relative_to(site)
        problems += [f"{where}: loads {url} from another server" for url in page.loaded if _is_remote(url)]
        if where.name == "404.html":
            continue  # its addresses are absolute: it is served for any path
        for url in page.links:
            if not _is_remote(url) and not url.startswith("mailto:"):
                problems += _problem_of_link(url, path, where, pages)
    for style in site.rglob("*.css"):
        urls = re.findall(r"url\(\s*[\"']?((?:https?:)?//[^)\"']+)", style.read_text())
        problems += [f"{style.relative_to(site)}: loads {url} from another server" for url in urls]
    return problems


def _is_remote(url: str) -> bool:
    return url.startswith(("http:", "https:", "//"))


def _problem_of_link(url: str, path: Path, where: Path, pages: dict[Path, _Page]) -> list[str]:
    target, _, anchor = url.partition("#")
    there = Path(os.path.normpath(path.parent / target)) if target else path
    there = there / "index.html" if there.is_dir() else there
    if not there.exists():
        return [f"{where}: {url} leads nowhere"]
    known = there not in pages or anchor in pages[there].anchors
    return [] if known else [f"{where}: {url}: that page has no such anchor"]


if __name__ == "__main__":
    sys.exit(main())
