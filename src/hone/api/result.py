"""What a call returns: the run's folder, and what is in it."""

from __future__ import annotations

import base64
import html
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hone.cli.show import show
from hone.errors import CheckpointError
from hone.lazy import lazy
from hone.report.formatting import number
from hone.report.panels import summary_metrics
from hone.report.run_view import Record, RunView, open_run

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MOST_PICTURE = 600_000
"""Bytes of the picture that a notebook is given."""


class Result:
    """A run. Every property reads the folder, so that it is up to date for a running run as well.

    folder: the run's folder. summary: how the call ended (`step`, `total_steps`, `stopped`, `seconds`); empty for
    a run that was loaded.
    """

    def __init__(self, folder: Path, summary: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.summary = dict(summary or {})
        open_run(folder)  # raises now if there is no run

    @property
    def view(self) -> RunView:
        """The folder, read now."""
        return open_run(self.folder)

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of every metric."""
        view = self.view
        return {name: view.values(name)[1][-1] for name in view.metrics()}

    @property
    def history(self) -> Any:
        """Every step's metrics: a pandas.DataFrame by step where pandas is installed, else a list of dicts."""
        rows = [row for row in self.view.rows if len(row) > 1]
        try:
            pandas = lazy("pandas")
        except ImportError:
            return rows
        frame = pandas.DataFrame(rows)
        return frame.astype({"step": int}).set_index("step") if rows else frame

    @property
    def step(self) -> int:
        """The last step that was logged."""
        return self.view.step

    @property
    def checkpoint(self) -> Path | None:
        """The newest checkpoint."""
        steps = self.view.checkpoints()
        return self.folder / f"step_{steps[-1]}" if steps else None

    @property
    def config(self) -> dict[str, Any]:
        """The resolved settings."""
        return self.view.config

    def rollouts(self, step: int | None = None, *, validation: bool = False) -> list[Record]:
        """The records of a step (default: the last), described in docs/seeing.md; empty for a step without any."""
        view, what = self.view, "validation" if validation else "rollouts"
        steps = view.samples.get(what) or {}
        wanted = next(reversed(steps), -1) if step is None else step
        return view.read(what, wanted) if wanted in steps else []

    def show(self, **options: Any) -> None:
        """Print what `hone show` prints, with its options: `step`, `best`, `worst`, `failed`, `prompt`, ..."""
        show(self.view, **options)

    def report(self) -> Path:
        """Write the run's HTML page again; returns its path."""
        from hone.report import write_report

        return write_report(self.view)

    def save(self, out: str | Path, *, step: int | None = None, dtype: str = "float32", adapter: bool = False,
             trust_remote_code: bool = False) -> Path:  # fmt: skip
        """Write the model as a folder that transformers loads, from the newest checkpoint or from `step`.

        Raises CheckpointError if there is none, or if `out` is not empty.
        """
        export = lazy("hone.export")
        wanted = self.folder if step is None else self.folder / f"step_{step}"
        if not wanted.is_dir():
            steps = ", ".join(map(str, self.view.checkpoints())) or "none"
            raise CheckpointError(f"{self.folder} has no checkpoint of step {step}; it has: {steps}")
        config, weights = export.locate(wanted)
        written: Path = export.convert(
            config, weights, Path(out), dtype=dtype, adapter=adapter, trust_remote_code=trust_remote_code
        )
        return written

    def model(self, step: int | None = None, **options: Any) -> PreTrainedModel:
        """The trained model, loaded by transformers; `options` are `from_pretrained`'s."""
        from hone.model.loading import auto_class
        from hone.model.scalar_head import has_scalar_head

        with tempfile.TemporaryDirectory(prefix="hone-") as made:
            trusted = bool(options.get("trust_remote_code", False))
            folder = self.save(Path(made) / "model", step=step, trust_remote_code=trusted)
            auto_config = lazy("transformers:AutoConfig").from_pretrained(folder, trust_remote_code=trusted)
            options["trust_remote_code"] = trusted
            loaded: PreTrainedModel = auto_class(has_scalar_head(auto_config)).from_pretrained(
                folder, **options
            )
            return loaded

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the newest checkpoint."""
        from hone.model.loading import load_tokenizer

        if self.checkpoint is None:
            raise CheckpointError(f"{self.folder} has no checkpoint")
        return load_tokenizer(str(self.checkpoint / "policy" / "tokenizer"))

    def __repr__(self) -> str:
        view = self.view
        return f"Result({str(self.folder)!r}: {view.algorithm} of {view.model}, {view.state()})"

    def _repr_html_(self) -> str:
        """The run in a notebook: its state, its numbers, its curves."""
        view = self.view
        cells = ""
        for line in summary_metrics(view.metrics()):
            name = html.escape(line.title + (f" ({line.unit})" if line.unit else ""))
            values = view.values(line.metrics[0].name)[1]
            ends = "".join(f"<td>{number(value, line)}</td>" for value in (values[0], values[-1]))
            cells += f"<tr><td style='text-align:left'>{name}</td>{ends}</tr>"
        where = html.escape(str(view.folder.report if view.folder.report.is_file() else self.folder))
        title = f"<b>{html.escape(f'{view.algorithm}: {view.model}')}</b>, {html.escape(view.state())}"
        return (
            f"<div>{title}<br><code>{where}</code>{_picture(view.folder.curves)}"
            "<details><summary>numbers</summary><table><tr><th></th><th>first</th><th>last</th></tr>"
            f"{cells}</table></details></div>"
        )


def _picture(png: Path) -> str:
    if not png.is_file() or png.stat().st_size > MOST_PICTURE:
        return ""
    data = base64.b64encode(png.read_bytes()).decode()
    return f"<br><img style='max-width:100%' src='data:image/png;base64,{data}'>"
