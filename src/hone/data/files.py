"""Find, open and decompress data files: local ones, or URLs that fsspec can open.

This module uses only the standard library and pyarrow, since importing `datasets` takes seconds. `hone.data.parsing`
turns the text of files into rows.
"""

from __future__ import annotations

import bz2
import difflib
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from hone.data import parsing
from hone.data.rows import Chain, Rows
from hone.errors import DataError

_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_DAMAGED = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error)
NEWLINE = b"\n"
SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv")
_SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def is_remote(path: str) -> bool:
    return "://" in path


def data_suffix(path: str) -> str | None:
    """The suffix that names the format, without that of the compression; None for other files."""
    name = PurePosixPath(path.lower()).name
    for packed in _OPENERS:
        name = name.removesuffix(packed)
    suffix = PurePosixPath(name).suffix
    return suffix if suffix in SUFFIXES else None


def read_file(path: str) -> Rows:
    """Read one data file. Raises DataError if it is missing, damaged or of an unknown format."""
    suffix = data_suffix(path)
    if suffix is None:
        raise DataError(f"{path} has an unknown format; known are {', '.join(SUFFIXES)}, also with .gz")
    if suffix == ".parquet":
        return _read_parquet(path)
    text = _read_text(path)
    if suffix in (".csv", ".tsv"):
        return parsing.csv_rows(text, path, "," if suffix == ".csv" else "\t")
    return parsing.json_rows(text, path) if suffix == ".json" else parsing.line_rows(text, path)


def _read_text(path: str) -> str:
    data = bytearray()
    try:
        with open_file(path) as file:
            read = getattr(file, "read1", file.read)  # read1 returns all data before the damage
            while part := read(1 << 16):
                data += part
    except _DAMAGED as error:
        lines = data.count(NEWLINE)
        checksum = isinstance(error, gzip.BadGzipFile) and lines  # it is at the end of the file
        position = f"within its {lines} lines" if checksum else f"after line {lines}"
        raise DataError(f"{path}: damaged or not compressed as its name says, {position}: {error}") from error
    except OSError as error:
        raise DataError(f"{path} could not be read: {error}") from error
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(NEWLINE, 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: not UTF-8 text ({error.reason} at byte {error.start}): save the file as UTF-8"
        ) from error


def _read_parquet(path: str) -> Rows:
    from hone.data import arrow_tables

    try:
        if not is_remote(path):
            return arrow_tables.parquet(path, path)
        with open_file(path) as file:
            return arrow_tables.parquet(file, path)
    except OSError as error:  # also those of pyarrow
        raise DataError(f"{path} could not be read: {error}") from error


def open_file(path: str) -> IO[bytes]:
    """Open a file for reading, decompressed. Raises OSError, or DataError for a URL that cannot be reached."""
    if not is_remote(path):
        opener = _OPENERS.get(Path(path).suffix.lower(), open)
        return opener(path, "rb")
    import fsspec

    with _store_errors(path, "reached"):
        return fsspec.open(path, "rb", compression="infer").open()


@contextmanager
def _store_errors(path: str, verb: str) -> Iterator[None]:
    """Raise what fsspec raises as DataError: `path` could not be `verb`."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"there is no {path}") from error
    except ImportError as error:
        raise DataError(f"reading {path} needs another package: {error}") from error
    except Exception as error:  # each store has exceptions of its own
        raise DataError(f"{path} could not be {verb}: {type(error).__name__}: {error}") from error


def list_folder(path: str) -> list[str]:
    """All data files below a local or remote folder, sorted."""
    if not is_remote(path):
        found = [str(p) for p in Path(path).rglob("*") if p.is_file() and not p.name.startswith(".")]
        return sorted(p for p in found if data_suffix(p))
    import fsspec

    with _store_errors(path, "listed"):
        fs, root = fsspec.core.url_to_fs(path)
        return sorted(fs.unstrip_protocol(p) for p in fs.find(root) if data_suffix(p))


def files_by_split(path: str, files: list[str]) -> dict[str, list[str]]:
    """A folder's files by split, judged by the words in their names; files without such a word are train."""
    splits: dict[str, list[str]] = {}
    for file in files:
        below = file[len(path.rstrip("/")) :].lower()
        words = re.split(r"[^a-z]+", below)
        named = [s for s, synonyms in _SPLIT_WORDS.items() if any(w in synonyms for w in words)]
        splits.setdefault(named[0] if named else "train", []).append(file)
    return splits


def read_files(files: list[str], name: str) -> Rows:
    """Several files as one dataset."""
    parts = [read_file(f) for f in files]
    return parts[0] if len(parts) == 1 else Chain(parts, name)


def missing_file(path: str) -> DataError:
    """The error for a path that does not exist; it names the most similar path that does."""
    target = Path(path).expanduser()
    parent = target.parent
    if not parent.is_dir():
        while not parent.exists():
            target, parent = parent, parent.parent
        return DataError(f"there is no {path}: {target} does not exist{_nearest(target, parent)}")
    return DataError(f"there is no file or folder {path}{_nearest(target, parent)}")


def _nearest(target: Path, parent: Path) -> str:
    names = [p.name for p in parent.iterdir()]
    stems = {name.split(".")[0]: name for name in sorted(names, reverse=True)}
    close = difflib.get_close_matches(target.name.split(".")[0], stems, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {parent / stems[close[0]]}?"
    files = sorted(n for n in names if data_suffix(n))[:5]
    return f"; {parent} has {', '.join(files)}" if files else ""
