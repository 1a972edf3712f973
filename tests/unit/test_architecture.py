"""The rules of ARCHITECTURE.md that a reader cannot hold by eye: who imports whom, how long a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "hone"

PLUMBING = {"files", "units", "subprocesses"}
"""Rooms that import nothing of Hone, and that every room may import."""
MAY_IMPORT: dict[str, str] = {
    **dict.fromkeys(sorted(PLUMBING), ""),
    "version": "",
    "errors": "",
    "types": "",
    "lazy": "",
    "registry": "errors",
    "user_code": "",
    "endpoint": "",
    "endpoint_completion": "types",
    "chat_template": "",
    "embedded": "errors",
    "config": "errors lazy registry embedded",
    "data": "errors registry types config chat_template embedded user_code",
    "model": "errors types config chat_template embedded",
    "planning": "errors config model",
    "checkpoint": "errors types config model",
    "tracking": "errors registry types endpoint_completion config",
    "rollout": "errors registry types config chat_template data user_code endpoint endpoint_completion model",
    "algorithms": "errors registry types config data tracking",
    "engine": "errors version types user_code endpoint endpoint_completion config chat_template data model planning "
    "checkpoint",
    "export": "errors config model checkpoint engine",
    "report": "errors registry config data model tracking checkpoint engine export",
    "training": "errors lazy registry types user_code config data model planning checkpoint tracking rollout "
    "algorithms engine export report",
    "evaluation": "errors lazy registry types endpoint endpoint_completion user_code chat_template embedded config "
    "data model planning tracking rollout algorithms engine export training",
    "tune": "errors registry config tracking training",
    "cli": "version errors lazy registry config data embedded model planning rollout engine export "
    "report training evaluation tune",
    "api": "errors lazy registry config data model tracking export report training evaluation cli",
    "demo": "errors lazy registry embedded config tracking export training evaluation",
    "__main__": "cli",
    "__init__": "api errors registry version",
}
"""Room -> rooms that it may import, besides itself. One-way: what a room may import never leads back to it."""


def room_of(path: Path) -> str:
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Rooms that a file imports anywhere in it, inside functions and for type checking too."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "hone" else [f"hone.{alias.name}" for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("hone.")}
    return rooms - {"__version__"}


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_one_way(path: Path) -> None:
    room = room_of(path)
    assert imports(path) - {room} - PLUMBING <= set(MAY_IMPORT[room].split())


def test_the_table_has_no_cycle() -> None:
    reached: dict[str, set[str]] = {}

    def below(room: str, trail: tuple[str, ...]) -> set[str]:
        assert room not in trail, f"cycle: {' -> '.join([*trail, room])}"
        if room not in reached:
            reached[room] = set().union(
                *(below(other, (*trail, room)) for other in MAY_IMPORT[room].split())
            ) | {room}
        return reached[room]

    for room in MAY_IMPORT:
        below(room, ())


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def modules_imported(path: Path) -> set[str]:
    """Files that a file imports anywhere in it, also by a name in a string ("hone.x.y" or "hone.x.y:name").

    The registry's entries are names: whoever asks for what one names imports it.
    """
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & MODULES.keys() or {node.module}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and path.name != "registry.py":
            found.add(node.value.split(":")[0])
    return found & MODULES.keys() - {module_of(path), "hone"}


def circles() -> list[set[str]]:
    """Strongly connected components of more than one file."""
    graph = {name: modules_imported(path) for name, path in MODULES.items()}
    reach: dict[str, set[str]] = {}
    for name in graph:
        seen, waiting = set[str](), [name]
        while waiting:
            new = graph[waiting.pop()] - seen
            seen |= new
            waiting.extend(new)
        reach[name] = seen
    return [{other for other in reach[name] if name in reach[other]} for name in graph if name in reach[name]]


def test_files_do_not_import_each_other_in_a_circle() -> None:
    assert circles() == []


@pytest.mark.parametrize(
    "path", sorted(SOURCE.rglob("__init__.py")), ids=lambda path: str(path.parent.relative_to(SOURCE))
)
def test_a_package_only_exports(path: Path) -> None:
    """Functions of a module's protocol, such as a lazy `__getattr__`, are part of exporting."""
    defined = [
        node.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]
    assert [name for name in defined if not name.startswith("__")] == []


def test_unit_tests_stand_in_the_room_that_they_test() -> None:
    here = Path(__file__).parent
    folders = {path.parent.relative_to(here) for path in here.rglob("test_*.py")}
    assert [str(folder) for folder in sorted(folders) if not (SOURCE / folder).is_dir()] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_fits_in_a_head_and_a_function_on_a_screen(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 320
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 80, node.name


@pytest.mark.parametrize("path", sorted((SOURCE / "algorithms").glob("*.py")), ids=lambda path: path.name)
def test_an_algorithm_is_short_and_knows_no_machine(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 200
    tree = ast.parse(text)
    roots = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    roots |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {
        root for root in roots if root.startswith(("ray", "torch.distributed", "vllm", "transformers"))
    }


def test_a_loss_brings_no_server_and_no_model_library() -> None:
    code = (
        "import sys, hone.algorithms.grpo, hone.algorithms.sft;"
        "print([m for m in ('ray', 'vllm', 'transformers', 'fastapi', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
