"""`hone show data` on a terminal: target tokens are green, the rest is dim; without colours targets are in ⟦ ⟧."""

from __future__ import annotations

from itertools import groupby

from rich.console import Console
from rich.text import Text

from hone.data.row_preview import RowPreview, SequencePreview, TokenPiece
from hone.report.data_preview import DataView
from hone.report.formatting import as_text, clean

TARGET, SPECIAL, CONTEXT = "bold green", "magenta", "dim"
OPEN, CLOSE = "⟦", "⟧"


def show(console: Console, view: DataView) -> None:
    """Print the rows, then what is refused, left out and not read."""
    console.print(Text(clean(f"hone {view.algorithm}: {view.model}"), style="bold"))
    for line in view.datasets:
        console.print(Text(clean(line)))
    console.print(legend(view, colours=coloured(console)))
    if view.rows:
        console.print(Text(f"\n{view.chosen}:", style="bold"))
    for row in view.rows:
        _row(console, view, row)
    for title, lines in view.notes:
        console.print(Text(f"\n{clean(title)}", style="bold yellow"))
        for line in lines:
            console.print(Text(clean(line)))


def coloured(console: Console) -> bool:
    """Whether the console shows colours (no pipe, NO_COLOR not set, TERM not dumb)."""
    return console.color_system is not None and not console.no_color


def legend(view: DataView, *, colours: bool) -> Text:
    """The meaning of the marks."""
    if not view.trains:
        return Text("the completion follows each prompt; reward functions get the columns", style=CONTEXT)
    if not colours:
        return Text(f"{OPEN}trained on{CLOSE}, and context")
    return Text.assemble(("trained on", TARGET), ", ", ("context", CONTEXT), ", ", ("special", SPECIAL))


def _row(console: Console, view: DataView, row: RowPreview) -> None:
    console.rule(Text(clean(row.location)), align="left", style=CONTEXT)
    if row.excluded:
        console.print(Text(clean(f"left out: {row.excluded}"), style="bold yellow"))
    for sequence in row.sequences:
        title = f"{sequence.name}: " if sequence.name else ""
        console.print(Text(clean(f"{title}{described(sequence, trains=view.trains)}"), style="cyan"))
        console.print(drawn(sequence.pieces, colours=coloured(console)))
        for finding in sequence.findings:
            console.print(Text(clean(f"! {finding}"), style="yellow"))
    for name, value in row.values.items():
        console.print(Text.assemble((clean(f"{name}: "), "cyan"), clean(as_text(value))))


def described(sequence: SequencePreview, *, trains: bool) -> str:
    """The numbers of a sequence's tokens and targets."""
    if not trains:
        return f"{sequence.num_tokens} tokens"
    cut = ", cut" if sequence.truncated else ""
    return f"{sequence.num_tokens} tokens, {sequence.num_targets} trained on{cut}"


def drawn(pieces: list[TokenPiece], *, colours: bool) -> Text:
    """The tokens as text, with targets marked."""
    text = Text()
    for target, run in groupby(pieces, key=lambda piece: piece.target):
        if target and not colours:
            text.append(OPEN)
        for piece in run:
            style = TARGET if target else SPECIAL if piece.special else CONTEXT
            text.append(clean(piece.text), style=style)
        if target and not colours:
            text.append(CLOSE)
    return text
