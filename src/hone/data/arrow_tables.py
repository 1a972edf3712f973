"""Read Arrow tables as rows."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hone.data.rows import ColumnRows, Row, Rows
from hone.data.values import tidy_row
from hone.errors import DataError


def parquet(file: Any, path: str) -> Rows:
    """The rows of a Parquet file, given by path or as an open file. Raises DataError if it is damaged, OSError."""
    try:
        table = pq.ParquetFile(file, memory_map=isinstance(file, str)).read()
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a readable Parquet file: {first_line(error)}") from error

    def read(start: int, stop: int) -> list[Row]:
        try:
            return table.slice(start, stop - start).to_pylist(maps_as_pydicts="strict")
        except (UnicodeDecodeError, KeyError, pa.ArrowException) as error:
            raise DataError(f"{path}, rows {start} to {stop - 1}: {first_line(error)}") from error

    plain = all(_plain(column.type) for column in table.schema)
    return ColumnRows(read if plain else filled(read), table.num_rows, path)


def filled(read: Any) -> Any:
    """`read`, with the nulls removed that Arrow adds for keys that a row lacks."""
    return lambda start, stop: [tidy_row(row, filled=True) for row in read(start, stop)]


def _plain(data_type: pa.DataType) -> bool:
    """Whether values of a column need no normalisation."""
    return (
        pa.types.is_string(data_type) or pa.types.is_large_string(data_type) or pa.types.is_integer(data_type)
    )


def first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
