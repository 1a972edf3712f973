"""Rows from files: JSON Lines, JSON, Parquet, CSV, compressed or not, here or behind a URL that fsspec can
open.

Only the standard library and pyarrow: importing `datasets` takes seconds. Values are as the file has them;
all cells of a CSV are text, so that "007" stays "007".
"""

from __future__ import annotations

import bz2
import csv
import difflib
import gzip
import io
import json
import lzma
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any

from hone.data.rows import Chain, ColumnRows, ListRows, Row, Rows
from hone.errors import DataError

_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv")
_SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def is_remote(path: str) -> bool:
    return "://" in path


def data_suffix(path: str) -> str | None:
    """The suffix that names the format, without the compression; None for other files."""
    name = PurePosixPath(path.lower()).name
    for packed in _OPENERS:
        name = name.removesuffix(packed)
    suffix = PurePosixPath(name).suffix
    return suffix if suffix in SUFFIXES else None


def read_file(path: str) -> Rows:
    """Read one data file. Raises DataError for a file that is missing, damaged or of an unknown format."""
    suffix = data_suffix(path)
    if suffix is None:
        raise DataError(f"{path} is of an unknown format; known are {', '.join(SUFFIXES)}, also with .gz")
    try:
        if suffix == ".parquet":
            return _read_parquet(path)
        with open_file(path) as file:
            text = file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError) as error:
        raise DataError(f"{path} is damaged or not compressed as its name says: {error}") from error
    except OSError as error:
        raise DataError(f"{path} could not be read: {error}") from error
    if suffix in (".csv", ".tsv"):
        return _parse_csv(text, path, "," if suffix == ".csv" else "\t")
    return _parse_json(text, path) if suffix == ".json" else _parse_lines(text, path)


def open_file(path: str) -> IO[bytes]:
    """Open for reading, decompressed. Raises OSError, or DataError for a URL that cannot be reached."""
    if not is_remote(path):
        opener = _OPENERS.get(Path(path).suffix.lower(), open)
        return opener(path, "rb")
    import fsspec

    try:
        return fsspec.open(path, "rb", compression="infer").open()
    except FileNotFoundError as error:
        raise DataError(f"there is no {path}") from error
    except ImportError as error:
        raise DataError(f"{path} needs one more package to be read: {error}") from error
    except Exception as error:  # each store has exceptions of its own
        raise DataError(f"{path} could not be reached: {type(error).__name__}: {error}") from error


def list_folder(path: str) -> list[str]:
    """All data files below a folder, sorted; of a remote one too."""
    if not is_remote(path):
        found = [str(p) for p in Path(path).rglob("*") if p.is_file() and not p.name.startswith(".")]
        return sorted(p for p in found if data_suffix(p))
    import fsspec

    try:
        fs, root = fsspec.core.url_to_fs(path)
        return sorted(fs.unstrip_protocol(p) for p in fs.find(root) if data_suffix(p))
    except ImportError as error:
        raise DataError(f"{path} needs one more package to be read: {error}") from error
    except Exception as error:  # as above
        raise DataError(f"{path} could not be listed: {type(error).__name__}: {error}") from error


def files_by_split(path: str, files: list[str]) -> dict[str, list[str]]:
    """Sort a folder's files into splits by the words in their names; no such word: train."""
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
    """The error for a path where nothing is; it names the nearest thing that is there."""
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


def _read_parquet(path: str) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if is_remote(path):
            with open_file(path) as file:
                table = pq.ParquetFile(file).read()
        else:
            table = pq.ParquetFile(path, memory_map=True).read()
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error

    def read(start: int, stop: int) -> list[Row]:
        return table.slice(start, stop - start).to_pylist()

    return ColumnRows(read, table.num_rows, path)


def _parse_lines(text: str, path: str) -> Rows:
    rows: list[Row] = []
    lines: list[int] = []
    # Not splitlines(): JSON strings may hold U+2028 and the like, which are no line ends here.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{number}: invalid JSON ({error.msg}, column {error.colno})") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: a row must be an object with columns, not {_kind(row)}")
        rows.append(row)
        lines.append(number)
    return ListRows(rows, path, lines)


def _parse_json(text: str, path: str) -> Rows:
    """A list of objects, an object that holds one such list, or lines of objects under the wrong suffix."""
    if not text.strip():
        return ListRows([], path)
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return _parse_lines(text, path)
        raise DataError(f"{path}:{error.lineno}: invalid JSON ({error.msg}, column {error.colno})") from error
    if isinstance(whole, dict):
        lists = [v for v in whole.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
        if len(whole) == 1 and lists:
            whole = lists[0]
        else:  # one line of JSON Lines
            return ListRows([whole], path)
    if not isinstance(whole, list):
        raise DataError(f"{path}: expected a list of objects, found {_kind(whole)}")
    for index, row in enumerate(whole):
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {index}: must be an object with columns, not {_kind(row)}")
    return ListRows(whole, path)


def _parse_csv(text: str, path: str, delimiter: str) -> Rows:
    csv.field_size_limit(2**31 - 1)  # a document may well be longer than the default of 128 KiB
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[Row] = []
    lines: list[int] = []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"{path}:{reader.line_num}: {'more' if None in row else 'fewer'} cells than the header's "
                    f"{len(reader.fieldnames or [])} ({', '.join(reader.fieldnames or [])})"
                )
            rows.append(row)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: invalid CSV ({error})") from error
    return ListRows(rows, path, lines)


def _kind(value: object) -> str:
    names = {list: "a list", str: "a string", int: "a number", float: "a number", bool: "a truth value"}
    return names.get(type(value), "null" if value is None else f"a {type(value).__name__}")
