"""The datasets of a run: their rows, how to read them, and which of them can be drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, TypeVar

from hone.data.chat import Encoder
from hone.data.formats import Format, PromptText, read_prompt_file
from hone.data.rows import Rows
from hone.data.sources import holdout, key_of, load_rows
from hone.errors import ConfigError, DataError
from hone.types import Message

T = TypeVar("T")
_TEMPLATE_BYTES = 256
"""Room for what a template writes around one message, on top of what was measured."""


@dataclass
class Part:
    """One dataset of a mixture. `keep` are the indices of its rows that can be drawn."""

    label: str
    rows: Rows
    format: Format
    keep: Sequence[int]
    env: str = ""
    weight: float = 1.0
    repeat: int = 1

    def at(self, row: int, error: DataError) -> DataError:
        """The error with the place of the row in front."""
        return DataError(f"{self.rows.where(row)}: {error}")

    def kept(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(index, row) of the rows that can be drawn; one sweep, which is the cheap way to read them all."""
        keep = set(self.keep)
        return ((i, row) for i, row in enumerate(self.rows) if i in keep)


def load_parts(data: Any, seed: int, *, chat: bool) -> tuple[list[Part], list[Part]]:
    """The training and the validation datasets of a `data` section; validation also holds what is set aside
    by
    `split_validation_size`. Raises DataError and ConfigError for what cannot be read."""
    if not data.train:
        raise ConfigError(
            "data.train is not set: give data.train.dataset_name=… (a file, a folder, a hub name)"
        )
    training: list[Part] = []
    validation: list[Part] = []
    for entry in data.train:
        part = load_part(entry, "train", chat=chat)
        if entry.split_validation_size:
            split_seed = entry.seed if entry.seed is not None else seed
            try:
                kept, held = holdout(len(part.rows), entry.split_validation_size, split_seed)
            except DataError as error:
                raise DataError(f"data.train, {part.rows.name}: {error}") from error
            validation.append(same_dataset(part, held))
            part.keep = kept
        training.append(part)
    validation += [load_part(entry, "validation", chat=chat) for entry in data.validation or []]
    for parts in (training, validation):
        _make_labels_unique(parts)
    return training, validation


def load_part(entry: Any, kind: str, *, chat: bool) -> Part:
    """One dataset entry."""
    key = key_of(kind)
    if entry.dataset_name is None:
        raise ConfigError(f"{key}.dataset_name is not set: give a file, a folder or a hub name")
    rows = load_rows(entry, kind=kind)
    reading = Format(
        chat=chat,
        prompt_template=entry.prompt_template,
        input_key=entry.input_key,
        output_key=entry.output_key,
        prompt_text=read_prompt_file(entry.prompt_file, f"{key}.prompt_file"),
        system_prompt=read_prompt_file(entry.system_prompt_file, f"{key}.system_prompt_file"),
    )
    return Part(
        label=_label(entry.dataset_name),
        rows=rows,
        format=reading,
        keep=range(len(rows)),
        env=entry.env_name or "",
        weight=getattr(entry, "weight", 1.0),
        repeat=getattr(entry, "repeat", 1),
    )


def same_dataset(part: Part, keep: Sequence[int]) -> Part:
    """Other rows of the same dataset."""
    return Part(part.label, part.rows, part.format, keep, part.env, part.weight, part.repeat)


def weights_of(parts: Sequence[Part]) -> list[float] | None:
    """The weights of a mixture; None for one dataset, where they mean nothing."""
    return [p.weight for p in parts] if len(parts) > 1 else None


def template_overhead(encoder: Encoder) -> int:
    """Bytes that the chat template may write around one message, generously."""
    if not encoder.chat:
        return _TEMPLATE_BYTES
    try:
        rendered = encoder.render_prompt(PromptText([{"role": "user", "content": "x"}])).text
    except DataError:  # a template that wants more than this message says so at a real row
        return _TEMPLATE_BYTES
    return _TEMPLATE_BYTES + len(rendered.encode())


def most_tokens(content: str | Sequence[Message], overhead: int) -> int | None:
    """No tokenizer makes more tokens of the text than it has bytes, so this many at most; None: cannot be
    said.

    It spares tokenising a dataset only to find that all of its rows are short enough.
    """
    if isinstance(content, str):
        return len(content.encode()) + 8
    if any(not isinstance(m["content"], str) or len(m) > 2 for m in content):
        return None
    return sum(len(m["content"].encode()) + overhead for m in content)


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _label(name: str) -> str:
    """A short name for ids: a file's stem, a hub name as it is."""
    path = PurePath(name.rstrip("/"))
    return path.name.split(".")[0] if path.suffix or path.is_absolute() or "://" in name else name


def _make_labels_unique(parts: list[Part]) -> None:
    seen: dict[str, int] = {}
    for part in parts:
        seen[part.label] = seen.get(part.label, 0) + 1
        if seen[part.label] > 1:
            part.label += f"#{seen[part.label]}"
