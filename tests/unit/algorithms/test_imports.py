"""An algorithm knows torch, the types, its configuration and the tensor functions: no machine, no server."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import hone.algorithms

FILES = sorted(Path(hone.algorithms.__file__).parent.glob("*.py"))
ALLOWED = ("torch", "hone.errors", "hone.types", "hone.algorithms", "hone.config")
STANDARD = ("__future__", "collections", "dataclasses", "functools", "typing", "math")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_algorithms_import_nothing_else(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            assert name.split(".")[0] in STANDARD or name.startswith(ALLOWED), f"{file.name} imports {name}"
            assert not name.startswith("torch.distributed"), f"{file.name} imports {name}"
