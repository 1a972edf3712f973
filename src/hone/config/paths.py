"""Local paths: an address such as s3://bucket/run is an error, and never becomes a folder `s3:`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from hone.errors import ConfigError

_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]+):/+")
"""One slash too: `Path("s3://bucket")` is `s3:/bucket`. A scheme has two letters or more; `C:/` is a drive."""


def scheme_of(text: str) -> str | None:
    """`s3` for s3://bucket/run; None for a local path."""
    found = _SCHEME.match(text)
    return found.group(1).lower() if found else None


def why_not_local(text: str) -> str | None:
    """What is wrong with an address in place of a local path, and the fix; None for a local path."""
    scheme = scheme_of(text)
    if scheme is None:
        return None
    if scheme == "file":
        return f"write it as a path, /{_SCHEME.sub('', text, count=1)}"
    return f"{scheme}:// is not supported here, only paths of this machine: name a local (or mounted) one"


def check_local(path: Path | str, key: str) -> None:
    """Raise ConfigError, naming `key`, for an address such as s3://bucket/run."""
    text = str(path)
    if (wrong := why_not_local(text)) is not None:
        shown = _SCHEME.sub(lambda found: f"{found.group(1)}://", text, count=1)
        raise ConfigError(f"{key}={shown}: {wrong}")


def _local(value: str) -> str:
    if (wrong := why_not_local(value)) is not None:
        raise ValueError(wrong)
    return value


LocalPath = Annotated[str, AfterValidator(_local)]
"""A path on this machine."""
LocalName = Annotated[str, AfterValidator(_local)]
"""A name (of the Hugging Face hub, of a Python module, of an embedded model), or a path on this machine."""


def _template(value: str) -> str:
    return value if "{" in value else _local(value)


TemplateOrPath = Annotated[str, AfterValidator(_template)]
"""A Jinja template, which has braces, or the path of a file that holds one."""
