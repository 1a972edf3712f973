"""Rows from users' own code: `dataset_name: my_data.py:MyDataset`, with the arguments that `kwargs` gives.

What is named may be a class (a PyTorch `Dataset`, say) or a function, which is called once, or something that is
there already. Whatever comes of it gives rows, as dicts: by `len` and index, or one after another. All rows are read
when the run starts, so that every epoch, and a run that goes on, sees the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from hone.data.rows import ListRows, Rows
from hone.data.values import is_table, tidy_row
from hone.errors import DataError
from hone.user_code import MissingCodeError, find


def load(target: str, kwargs: Mapping[str, Any], split: str, limit: int | None, key: str) -> Rows:
    """The rows of what `target` names, at most `limit`. It is given `split` where it takes one by that name.

    Raises DataError that names the key: nothing there, wrong arguments, an error of its own, rows that are no dicts.
    """
    named = f"{key}.dataset_name={target}"
    try:
        found = find(target)
    except MissingCodeError as error:
        raise DataError(f"{named}: {error}") from error
    except Exception as error:  # whatever the user's module raises while it is imported
        raise DataError(f"{named} cannot be imported: {type(error).__name__}: {error}") from error
    if callable(found):
        found = _called(found, kwargs, split, named, key)
    elif kwargs:
        raise DataError(f"{named} is a {type(found).__name__}, which takes no {key}.kwargs: leave them out")
    try:
        rows = list(islice(_rows(found, named), limit))
    except DataError:
        raise
    except Exception as error:  # whatever the user's code raises while it gives rows
        raise DataError(f"{named} failed: {type(error).__name__}: {error}") from error
    tidied = []
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DataError(f"{named}, row {index}: is a {type(row).__name__}; a row is a dict of columns")
        try:
            tidied.append(tidy_row(row, filled=is_table(found)))
        except DataError as error:
            raise DataError(f"{named}, row {index}: {error}") from error
    return ListRows(tidied, target)


def _called(found: Any, kwargs: Mapping[str, Any], split: str, named: str, key: str) -> Any:
    arguments = dict(kwargs)
    try:
        signature = inspect.signature(found)
        if "split" in signature.parameters:
            arguments.setdefault("split", split)
        signature.bind(**arguments)
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "nothing"
        raise DataError(f"{named}: {error}; it takes {takes}: give them as {key}.kwargs") from error
    except ValueError:  # written in C, it does not say
        pass
    try:
        return found(**arguments)
    except Exception as error:  # whatever the user's code raises
        raise DataError(f"{named} failed: {type(error).__name__}: {error}") from error


def _rows(found: Any, named: str) -> Iterator[Any]:
    if hasattr(found, "to_dict") and hasattr(found, "columns"):  # pandas
        return iter(found.to_dict("records"))
    if hasattr(found, "__len__") and hasattr(found, "__getitem__") and not isinstance(found, Mapping):
        return (found[index] for index in range(len(found)))
    if isinstance(found, Iterable) and not isinstance(found, str | Mapping):
        return iter(found)
    raise DataError(
        f"{named} gives a {type(found).__name__}: rows come from what has __len__ and __getitem__, or can be "
        "iterated over"
    )
