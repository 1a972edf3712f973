"""`hone show data --html`: the same on a page of its own. It has no script, and its policy lets none run: whatever a
row says stays text."""

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
"""Tokens of a sequence that the page holds."""


def write_page(view: DataView, path: Path) -> Path:
    """Write the page, whole or not at all. Raises OSError where it cannot be written."""
    write_atomically(path, page(view))
    return path


def page(view: DataView) -> str:
    """The page as text."""
    assets = resources.files(__package__) / "assets"
    style = "".join((assets / name).read_text(encoding="utf-8") for name in ("report.css", "data.css"))
    title = escape(f"data of {view.algorithm}: {view.model}")
    body = "".join(
        [
            f"<header><h1>{title}</h1>",
            *(f'<div class="sub">{escape(line)}</div>' for line in view.datasets),
            f"</header>{_legend(view)}",
            *_notes(view),
            f"<h2>{escape(view.chosen)}</h2>" if view.rows else "",
            *(_row(view, row) for row in view.rows),
        ]
    )
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    return (
        (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark">'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
            f"<title>{title}</title><style>{style}</style></head><body><main>{body}</main></body></html>\n"
        )
        .encode("utf-8", "replace")
        .decode()
    )


def _legend(view: DataView) -> str:
    if not view.trains:
        return (
            '<p class="legend">The model goes on where a prompt ends (▶). Columns go to reward functions.</p>'
        )
    return (
        '<p class="legend"><span class="t on">learned from</span> <span class="t">context</span> '
        '<span class="t special">special token</span> Token borders are drawn; the pointer shows ids.</p>'
    )


def _notes(view: DataView) -> list[str]:
    cards = "".join(_card(title, lines) for title, lines in view.notes)
    return [f'<div class="cards notes">{cards}</div>'] if cards else []


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
    name = (
        f'<span class="chip {_tone(sequence.name)}">{escape(sequence.name)}</span> ' if sequence.name else ""
    )
    found = "".join(f'<span class="chip warn">{escape(finding)}</span>' for finding in sequence.findings)
    tokens = "".join(map(_token, sequence.pieces[:MOST_PIECES]))
    more = len(sequence.pieces) - MOST_PIECES
    tokens += f" [… {more} tokens]" if more > 0 else "" if trains else '<span class="soft">▶</span>'
    length = escape(described(sequence, trains=trains))
    return (
        f'<div><div class="chips">{name}<span class="chip">{length}</span>{found}</div>'
        f'<div class="tokens">{tokens}</div></div>'
    )


def _tone(name: str) -> str:
    return {"chosen": "good", "rejected": "bad"}.get(name, "")


def _token(piece: TokenPiece) -> str:
    kinds = ["t", *(["on"] if piece.target else []), *(["special"] if piece.special else [])]
    ids = " ".join(map(str, piece.ids))
    text = escape(piece.text).replace("\n", '<span class="end">↵</span>\n')
    return f'<span class="{" ".join(kinds)}" title="{ids}">{text}</span>'
