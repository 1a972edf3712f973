"""Rows from users' own code: `dataset_name: my_data.py:MyDataset`, with the arguments in `kwargs`.

The name may be that of a class (a PyTorch `Dataset`, say) or a function, which is called once, or of any other object.
The object, or the result of the call, provides rows as dicts: by `len` and index, or as an iterable. All rows are read
when the run starts, so that every epoch, and a resumed run, sees the same rows.
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
    """The rows of the object that `target` names, at most `limit`. `split` is passed if it takes such an argument.

    Raises DataError naming the key: no such object, wrong arguments, an error in the user's code, rows that are not
    dicts.
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
            raise DataError(f"{named}, row {index}: is a {type(row).__name__}; it must be a dict of columns")
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
        raise DataError(f"{named}: {error}; it takes {takes}: set them in {key}.kwargs") from error
    except ValueError:  # code written in C has no signature
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
        f"{named} returns a {type(found).__name__}; it must have __len__ and __getitem__, or be iterable"
    )
