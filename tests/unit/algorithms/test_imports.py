"""An algorithm knows torch, the types, its configuration, its data and the tensor functions: no machine, no server."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import hone.algorithms

FILES = sorted(Path(hone.algorithms.__file__).parent.rglob("*.py"))
ALLOWED = (
    "torch",
    "hone.errors",
    "hone.types",
    "hone.registry",
    "hone.algorithms",
    "hone.config",
    "hone.data",
)
STANDARD = ("__future__", "abc", "collections", "dataclasses", "functools", "pathlib", "typing", "math")
FILES_OF_ITS_OWN = {
    "reference_logprobs.py": ("json", "os", "re", "sys", "zlib", "numpy", "hone.files", "hone.tracking")
}
"""Log-probabilities of the reference are kept in the run's folder."""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_algorithms_import_nothing_else(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            allowed = (*ALLOWED, *FILES_OF_ITS_OWN.get(file.name, ()))
            assert name.split(".")[0] in STANDARD or name.startswith(allowed), f"{file.name} imports {name}"
            assert not name.startswith("torch.distributed"), f"{file.name} imports {name}"
