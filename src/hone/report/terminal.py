"""A run on the terminal: its state, its metrics, and rollouts."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.console import Console, Group, RenderableType
from rich.panel import Panel as Box
from rich.table import Table
from rich.text import Text

from hone.errors import ConfigError, DataError
from hone.registry import is_online, specs
from hone.report.formatting import as_messages, as_text, clean, number, sparkline
from hone.report.panels import summary_metrics
from hone.report.run_view import Record, RunView
from hone.report.samples import failures, ranking, spaced, varied

MOST_ROWS = 200
NUMBER_WIDTH = 9
"""Characters of `1.234e+05`."""
SPARKLINE_WIDTH = 20
LEAST_SPARKLINE = 5
"""A narrower terminal gets no sparklines."""
BESIDE_SPARKLINE = 18 + 4 * 2 + 3 * NUMBER_WIDTH
"""Characters of the other columns of a summary: a metric's name and three numbers, two blanks after each."""


@dataclass(frozen=True)
class Selection:
    """Which of a run's rollouts to show."""

    what: str = "rollouts"
    step: int | None = None
    best: int | None = None
    worst: int | None = None
    failed: bool = False
    prompt: str | None = None

    @property
    def anything(self) -> bool:
        """Whether any option was given."""
        return self.failed or any(v is not None for v in (self.step, self.best, self.worst, self.prompt))


def show(console: Console, view: RunView, wanted: Selection) -> None:
    """Print the run's state and numbers, then rollouts. Raises DataError for an unknown step or prompt."""
    asked = wanted.anything or wanted.what == "validation"
    if view.algorithm == "eval":  # all its samples are held out
        wanted = replace(wanted, what="validation")
    if not asked:
        head(console, view)
        numbers(console, view)
    if not view.samples.get(wanted.what):
        if asked:
            raise DataError(_nothing(view, wanted.what))
        if not view.samples.get("validation"):
            return
        wanted = Selection("validation")
    step = _step(view, wanted)
    records = view.read(wanted.what, step)
    title = "held-out samples" if wanted.what == "validation" else "rollouts"
    if wanted.prompt is not None:
        _group(console, records, wanted.prompt, view.samples[wanted.what][step].name)
        return
    console.print(Text(f"\n{_tally(records, step, title)}", style="bold"))
    for name, chosen in _chosen(records, wanted):
        console.print(Text(f"\n{name}", style="bold"))
        if not chosen:
            console.print(Text("none", style="dim"))
        for index in chosen:
            console.print(card(records[index]))


def head(console: Console, view: RunView) -> None:
    """Print the run's algorithm, model, data, state and best checkpoint."""
    title = (clean(f"{view.algorithm}: {view.model}"), "bold")
    console.print(Text.assemble(title, clean(f" on {view.data}")))
    best = view.best()
    parts = [view.state()]
    if best is not None:
        parts.append(f"best checkpoint step_{best[0]} ({best[1]} {best[2]:.4g})")
    elif view.checkpoints():
        parts.append(f"checkpoint step_{view.checkpoints()[-1]}")
    line = Text(clean(f"{' · '.join(parts)} · {view.folder.path}"), style="dim")
    console.print(line, soft_wrap=True)  # a path that is broken in two cannot be copied


def numbers(console: Console, view: RunView) -> None:
    """Print the first, best and last value of every metric of the summary, with a sparkline where there is room."""
    lines = [line for line in summary_metrics(view.metrics()) if view.values(line.metrics[0].name)[1]]
    if not lines:
        console.print(Text("nothing has been logged yet", style="dim"))
        return
    width = min(SPARKLINE_WIDTH, console.width - BESIDE_SPARKLINE)
    sparklines = ["trend"] if width >= LEAST_SPARKLINE else []
    table = plain_table("metric", ">first", ">best", ">last", *sparklines)
    table.columns[-1].no_wrap = True
    constant = []
    for line in lines:
        _, values = view.values(line.metrics[0].name)
        if len(set(values)) == 1 and len(values) > 1:
            constant.append(f"{line.title} {number(values[-1], line)}")
            continue
        best = "" if not line.better else number((max if line.better > 0 else min)(values), line)
        unit = f" ({line.unit})" if line.unit else ""
        cells = [clean(line.title + unit), number(values[0], line), best, number(values[-1], line)]
        table.add_row(*cells, *(sparkline(values, width) for _ in sparklines))
    console.print(table)
    if constant:
        console.print(Text(clean("constant: " + ", ".join(constant)), style="dim"))


def show_metrics(console: Console, view: RunView, names: Sequence[str]) -> None:
    """Print metrics by step. Raises ConfigError for one that the run does not have."""
    present = view.metrics()
    for name in names:
        if name not in present:
            near = difflib.get_close_matches(name, present, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(present)}"
            raise ConfigError(f"the run has no metric {name!r}: {hint}")
    head(console, view)
    rows = [row for row in view.rows if any(name in row for name in names)]
    kept = [rows[i] for i in spaced(range(len(rows)), MOST_ROWS)]
    table = plain_table(">step", *(clean(f">{name}") for name in names))
    for row in kept:
        table.add_row(f"{row['step']:.0f}", *(f"{row[name]:.6g}" if name in row else "" for name in names))
    console.print(table)
    if len(kept) < len(rows):
        console.print(Text(f"{len(kept)} of {len(rows)} steps; {view.folder.metrics} has all", style="dim"))


def card(record: Record, *, with_prompt: bool = True) -> RenderableType:
    """A rollout in a box: prompt (unless the boxes beside it have the same), completion, reward."""
    parts: list[RenderableType] = []
    if with_prompt:
        parts += [*as_messages(record.get("prompt"), "cyan"), Text("─" * 8, style="dim")]
    parts += as_messages(record.get("messages") or record.get("completion") or "", "")
    extra = (record.get("extra") or {}).items()
    parts += [Text(clean(f"{name}: {as_text(value)}"), style="dim") for name, value in extra]
    for key, words, style in (("failure", "failed", "bold red"), ("excluded", "left out", "yellow")):
        if record.get(key):  # in the box, since a narrow terminal cuts its title
            parts.append(Text(clean(f"{words}: {str(record[key])[:400]}"), style=style))
    return Box(
        Group(*parts),
        title=worth(record, with_answer=with_prompt),
        title_align="left",
        subtitle=Text(clean(str(record.get("group", ""))), style="dim") if with_prompt else None,
        subtitle_align="right",
        border_style="red" if record.get("failure") else "dim",
    )


def worth(record: Record, *, with_answer: bool = True) -> Text:
    """The title of a rollout's box: reward (of each function if there are several), advantage, tokens."""
    reward, rewards = record.get("reward"), record.get("rewards") or {}
    text = Text()
    if reward is not None:
        text.append(f"reward {reward:.4g}", style="bold green" if reward > 0 else "bold red")
    if len(rewards) > 1:
        values = (
            f"{name} {'–' if reward is None else format(reward, '.4g')}" for name, reward in rewards.items()
        )
        text.append(f" ({', '.join(values)})")
    if record.get("advantage") is not None:
        text.append(f"  advantage {record['advantage']:+.3g}")
    if (length := record.get("num_tokens")) is not None:  # an endpoint may not count them
        text.append(f"  {length} tokens")
    if record.get("finish") == "length":
        text.append(", cut off", style="yellow")
    if (record.get("turns") or 1) > 1:
        text.append(f"  {record['turns']} turns")
    if with_answer and record.get("answer") is not None:
        gold = as_text(record["answer"]).rpartition("####")[2].strip()  # GSM8K's answers begin with the steps
        text.append(clean(f"  expected {gold[:60]}"), style="dim")
    return text


def _step(view: RunView, wanted: Selection) -> int:
    steps = list(view.samples[wanted.what])
    if wanted.step is None:
        return steps[-1]
    if wanted.step not in steps:
        asked = wanted.step
        near = min(steps, key=lambda step: abs(step - asked))
        raise DataError(
            f"there are no {wanted.what} of step {wanted.step}: they go from {steps[0]} to {steps[-1]}; the nearest is "
            f"--step {near}"
        )
    return wanted.step


def _chosen(records: Sequence[Record], wanted: Selection) -> list[tuple[str, list[int]]]:
    ranked = ranking(records)
    if not ranked and not wanted.failed:  # samples without rewards
        return [("the first", list(range(min(wanted.best or wanted.worst or 4, len(records)))))]
    named = wanted.best is not None or wanted.worst is not None or wanted.failed
    best, worst = (wanted.best or 0, wanted.worst or 0) if named else (2, 2)
    chosen = []
    if best:
        chosen.append((f"the best {best}", varied(ranked, records, best)))
    if worst:
        chosen.append((f"the worst {worst}", varied(ranked[::-1], records, worst)))
    if wanted.failed:
        chosen.append(("failed or left out", failures(records)[:50]))
    return chosen


def _group(console: Console, records: Sequence[Record], wanted: str, file: str) -> None:
    names = list(dict.fromkeys(str(record.get("group")) for record in records))
    found = [name for name in names if name == wanted] or [name for name in names if wanted in name]
    if not found:
        raise DataError(f"{file} has no prompt {wanted!r}: the first ids are {', '.join(names[:4])}")
    members = [record for record in records if str(record.get("group")) == found[0]]
    also = f" ({len(found) - 1} more ids contain {wanted!r})" if len(found) > 1 else ""
    console.print(Text(clean(f"\n{found[0]}: {len(members)} rollouts{also}"), style="bold"))
    console.print(Group(*as_messages(members[0].get("prompt"), "cyan")))
    across = max(1, min(len(members), console.width // 48))
    table = Table.grid(expand=True, padding=(0, 1))
    for _ in range(across):
        table.add_column(ratio=1)
    for start in range(0, len(members), across):
        row = [card(record, with_prompt=False) for record in members[start : start + across]]
        table.add_row(*row, *[""] * (across - len(row)))
    console.print(table)


def _tally(records: Sequence[Record], step: int, title: str) -> str:
    rewards = [record["reward"] for record in records if record.get("reward") is not None]
    text = f"step {step}: {len(records)} {title}"
    if rewards:
        text += f", mean reward {sum(rewards) / len(rewards):.4g}"
    for key, words in (("failure", "failed"), ("excluded", "left out")):
        if count := sum(bool(record.get(key)) for record in records):
            text += f", {count} {words}"
    return text


def _nothing(view: RunView, what: str) -> str:
    path = view.folder.path
    if what == "validation":
        return f"{path} has no held-out samples: the run has not validated (with rewards) so far"
    if view.algorithm in specs() and not is_online(view.algorithm):
        return f"{path} is a run of hone {view.algorithm}, which samples nothing: it has no rollouts"
    if (view.config.get("logger") or {}).get("log_rollouts") is False:
        return f"{path} has no rollouts: the run has logger.log_rollouts=false"
    return f"{path} has no rollouts so far (looked in {view.folder.rollouts})"


def plain_table(*heads: str) -> Table:
    """A table without borders; a heading that begins with `>` is one of numbers, which are not wrapped where a
    terminal is narrow."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in heads:
        numbers = name.startswith(">")
        table.add_column(
            name.removeprefix(">"),
            justify="right" if numbers else "left",
            overflow="fold",
            min_width=NUMBER_WIDTH if numbers and len(heads) < 6 else None,
        )
    return table
