"""`hone show data --html`: the rows on an HTML page. It has no script and its content security policy allows none, so
that a row's text stays text."""

from __future__ import annotations

from html import escape
from importlib import resources
from pathlib import Path

from hone.data.row_preview import RowPreview, SequencePreview, TokenPiece
from hone.files import write_atomically
from hone.report.data_preview import DataView
from hone.report.data_terminal import described
from hone.report.formatting import as_text

MOST_PIECES = 20_000
"""Tokens of a sequence that are on the page."""


def write_page(view: DataView, path: Path) -> Path:
    """Write the page, whole or not at all. Raises OSError where it cannot be written."""
    write_atomically(path, page(view))
    return path


def page(view: DataView) -> str:
    """The page as text."""
    assets = resources.files(__package__) / "assets"
    style = "".join((assets / name).read_text(encoding="utf-8") for name in ("report.css", "data.css"))
    title = escape(f"data of {view.algorithm}: {view.model}")
    datasets = "".join(f'<div class="sub">{escape(line)}</div>' for line in view.datasets)
    notes = "".join(_card(title, lines) for title, lines in view.notes)
    notes = f'<div class="cards notes">{notes}</div>' if notes else ""
    rows = "".join(_row(view, row) for row in view.rows)
    rows = f"<h2>{escape(view.chosen)}</h2>{rows}" if view.rows else ""
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{title}</title><style>{style}</style></head><body><main><header><h1>{title}</h1>"
        f"{datasets}</header>{_legend(view)}{notes}{rows}</main></body></html>\n"
    )
    return text.encode("utf-8", "replace").decode()


def _legend(view: DataView) -> str:
    if not view.trains:
        return (
            '<p class="legend">The completion follows each prompt (▶). Reward functions get the columns.</p>'
        )
    return (
        '<p class="legend"><span class="t on">trained on</span> <span class="t">context</span> '
        '<span class="t special">special token</span> Each token has a border; hover over it for its ids.</p>'
    )


def _card(title: str, lines: list[str]) -> str:
    text = "".join(f'<div class="soft">{escape(line)}</div>' for line in lines)
    return f'<div class="card"><h3>{escape(title[:1].upper() + title[1:])}</h3>{text}</div>'


def _row(view: DataView, row: RowPreview) -> str:
    left_out = f'<span class="chip warn">left out: {escape(row.excluded)}</span>' if row.excluded else ""
    sequences = "".join(_sequence(sequence, trains=view.trains) for sequence in row.sequences)
    values = "".join(
        f"<tr><td>{escape(str(name))}</td><td>{escape(as_text(value)[:2000])}</td></tr>"
        for name, value in row.values.items()
    )
    table = f"<table>{values}</table>" if values else ""
    title = f"<h3>{escape(row.location)}</h3>{left_out}"
    return f'<div class="card row">{title}<div class="two">{sequences}</div>{table}</div>'


def _sequence(sequence: SequencePreview, *, trains: bool) -> str:
    tone = {"chosen": "good", "rejected": "bad"}.get(sequence.name, "")
    name = f'<span class="chip {tone}">{escape(sequence.name)}</span> ' if sequence.name else ""
    found = "".join(f'<span class="chip warn">{escape(finding)}</span>' for finding in sequence.findings)
    tokens = "".join(map(_token, sequence.pieces[:MOST_PIECES]))
    more = len(sequence.pieces) - MOST_PIECES
    tokens += f" [… {more} tokens]" if more > 0 else "" if trains else '<span class="soft">▶</span>'
    length = escape(described(sequence, trains=trains))
    return (
        f'<div><div class="chips">{name}<span class="chip">{length}</span>{found}</div>'
        f'<div class="tokens">{tokens}</div></div>'
    )


def _token(piece: TokenPiece) -> str:
    classes = "t" + " on" * piece.target + " special" * piece.special
    ids = " ".join(map(str, piece.ids))
    text = escape(piece.text).replace("\n", '<span class="end">↵</span>\n')
    return f'<span class="{classes}" title="{ids}">{text}</span>'
