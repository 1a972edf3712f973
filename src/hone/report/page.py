"""`report.html`: a run on one page that opens without a server and without the network.

The page is a template, a style sheet and one script, all inline, and the data as JSON. Texts of a model or a dataset
cannot run code: the script inserts text as text only, the JSON holds no `<`, and the page's content security policy
allows no other script.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import json
import math
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from hone.config import keys
from hone.config.nested import dotted, leaves
from hone.config.schema import ROOTS
from hone.files import write_atomically
from hone.report.formatting import as_text, cut_middle
from hone.report.panels import sections_of
from hone.report.run_view import Record, RunView, open_run
from hone.report.samples import Gathered, gather, histograms
from hone.tracking.catalogue import Panel

MOST_BYTES = 4_500_000
"""Bytes of the data in a page."""
POINTS = 1000
"""Points of a curve; a longer one is drawn from the means of its parts."""
SIZES = ((60, 4000), (60, 2000), (40, 1200), (25, 800), (12, 500), (6, 300))
"""Steps whose rollouts are in the page, and characters of a text: the first pair with which it is small enough."""
SHOWN = """
group completion rewards reward advantage finish num_tokens logprob version failure excluded answer
messages turns extra
""".split()
"""Keys of a rollout's record that are in the page."""


def write_report(run: str | Path | RunView, file: Path | None = None) -> Path:
    """Write the page of a run, to its folder unless `file` says otherwise, whole or not at all.

    Raises DataError for what is no run's folder, OSError where the file cannot be written.
    """
    view = run if isinstance(run, RunView) else open_run(run)
    path = file if file is not None else view.folder.report
    write_atomically(path, page(view))
    return path


def page(view: RunView) -> str:
    """The page as text."""
    data = _within_bounds(view)
    assets = resources.files(__package__) / "assets"
    style, script, body = (
        (assets / name).read_text(encoding="utf-8") for name in ("report.css", "report.js", "report.html")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    filled = {"TITLE": html.escape(f"{view.algorithm}: {view.name}"), "DIGEST": digest, "STYLE": style}
    for name, text in filled.items():
        body = body.replace(f"@@{name}@@", text)
    head, rest = body.split("@@DATA@@")
    before, after = rest.split("@@SCRIPT@@")
    return f"{head}{data}{before}{script}{after}"


def _within_bounds(view: RunView) -> str:
    base, gathered = _curves(view), functools.cache(functools.partial(gather, view))
    for steps, longest in SIZES:
        samples = {
            name: _shown(view, name, gathered(name, steps), longest) for name in ("rollouts", "validation")
        }
        text = embedded({**base, **samples})
        if len(text.encode()) <= MOST_BYTES:
            return text
    return embedded(base)


def embedded(data: Any) -> str:
    """JSON without characters that an HTML parser would read as markup."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=str)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "replace").decode("utf-8")


def _curves(view: RunView) -> dict[str, Any]:
    present = view.metrics()
    rows, means = _thinned(view.rows)
    best = view.best()
    return {
        "algorithm": view.algorithm,
        "name": view.name,
        "folder": str(view.folder.path),
        "model": view.model,
        "data": view.data,
        "state": view.state(),
        "best": None if best is None else {"step": best[0], "metric": best[1], "value": best[2]},
        "run_info": view.run_info,
        "steps": [row["step"] for row in rows],
        "metrics": {name: [row.get(name) for row in rows] for name in present},
        "last": {name: view.values(name)[1][-1] for name in present},
        "sections": [[name, list(map(_panel, panels))] for name, panels in sections_of(present)],
        "settings": yaml.safe_dump(view.config, sort_keys=False, allow_unicode=True, width=100)[:100_000],
        "changed": changed(view),
        "left_out": [f"each point of a curve is the mean of {means} steps"] if means > 1 else [],
    }


def _panel(panel: Panel) -> dict[str, Any]:
    """What the script draws of a panel."""
    named = ("title", "lines", "unit", "percent", "from_zero", "stacked", "about")
    return {name: getattr(panel, name) for name in named}


def _thinned(rows: list[dict[str, float]]) -> tuple[list[dict[str, float]], int]:
    """At most POINTS rows, and of how many each is the mean."""
    width = math.ceil(len(rows) / POINTS)
    if width <= 1:
        return rows, 1
    thinned = []
    for start in range(0, len(rows), width):
        part = rows[start : start + width]
        names = {name for row in part for name in row}
        columns = {name: [row[name] for row in part if name in row] for name in names}
        thinned.append({name: math.fsum(values) / len(values) for name, values in columns.items()})
        thinned[-1]["step"] = part[-1]["step"]
    return thinned, width


def changed(view: RunView) -> list[list[str]]:
    """Settings that are not the schema's defaults: key, value."""
    root = ROOTS.get(view.algorithm)
    if root is None or view.algorithm == "eval":
        return []
    usual = dict(leaves(root().model_dump(warnings=False)))
    found = []
    for path, value in leaves(view.config):
        derived = keys.derived_text(root, path) is not None  # from other settings
        # A dataset has no default as a whole, so its keys have none here.
        empty = path not in usual and value in (None, {}, [], 0.0, 1.0)
        if not derived and not empty and usual.get(path, path) != value:
            text = as_text(value)
            found.append([dotted(path), text if len(text) <= 300 else f"{text[:300]}…"])
    return found


def _shown(view: RunView, what: str, found: Gathered, longest: int) -> dict[str, Any] | None:
    """The page's part of the rollouts or validation samples; None without any."""
    if not found.steps:
        return None
    logged = len(view.samples[what])
    named = "held-out samples" if what == "validation" else what
    kept, total = len(found.records), sum(step["count"] for step in found.steps)
    note = (
        f"{kept} of {total} {named} at {len(found.steps)} of {logged} steps; texts up to {longest} characters"
    )
    return {
        "steps": found.steps,
        "records": [_record(record, longest) for record in found.records],
        "prompts": {group: _cut(prompt, longest) for group, prompt in found.prompts.items()},
        "histograms": histograms(found),
        "causes": [[cause, count, found.examples[cause]] for cause, count in found.causes.most_common(20)],
        "note": note,
    }


def _record(record: Record, longest: int) -> Record:
    kept = {name: _cut(record[name], longest) for name in SHOWN if record.get(name) is not None}
    if "messages" in kept:
        kept.pop("completion", None)
    return kept


def _cut(value: Any, longest: int) -> Any:
    """The value with its texts cut in the middle, and None for numbers that JSON does not have."""
    if isinstance(value, str):
        return cut_middle(value, longest)
    if isinstance(value, dict):
        return {str(key): _cut(item, longest) for key, item in value.items()}
    if isinstance(value, list):
        return [_cut(item, longest) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
