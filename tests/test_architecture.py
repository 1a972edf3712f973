"""The rules of ARCHITECTURE.md that a reader cannot hold by eye: who imports whom, how long a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "hone"

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "version": set(),
    "importing": set(),
    "chat_template": set(),
    "types": set(),
    "embedded": {"errors"},
    "config": {"errors", "embedded"},
    "data": {"errors", "types", "config", "chat_template", "embedded", "importing"},
    "rollout": {"errors", "types", "config", "chat_template", "data", "importing", "model"},
    "algorithms": {"errors", "types", "config"},
    "model": {"errors", "types", "config", "chat_template", "embedded"},
    "engine": {"errors", "types", "config", "chat_template", "data", "model"},
    "tracking": {"errors", "types", "config"},
    "export": {"errors", "config", "engine", "model"},
    "process": {"errors", "config", "tracking"},
    "recovery": {"errors", "config", "engine"},
    "preflight": {
        *("config", "data", "engine", "methods", "process", "recovery", "rollout", "tracking"),
    },
    "seeing": {"errors", "config", "data", "engine", "export", "model", "tracking"},
    "loop": {"errors", "config", "engine", "process", "recovery", "seeing", "tracking"},
    "evaluation": {
        *(
            "errors",
            "types",
            "config",
            "algorithms",
            "chat_template",
            "data",
            "embedded",
            "engine",
            "export",
            "importing",
            "model",
            "process",
            "rollout",
        ),
        "tracking",
    },
    "methods": {"errors", "types", "config", "algorithms", "data", "tracking"},
    "supervised": {
        *("types", "config", "methods", "engine", "export", "loop", "preflight", "process", "recovery"),
        "tracking",
    },
    "online": {
        *("types", "config", "algorithms", "data", "engine", "export", "loop", "preflight", "process"),
        *("recovery", "rollout", "tracking"),
    },
    "tune": {"errors", "config", "process", "tracking"},
    "launch": {
        *("errors", "config", "importing", "data", "embedded", "model", "engine", "evaluation", "export"),
        *("preflight", "rollout"),
    },
    "api": {
        *(
            "errors",
            "config",
            "data",
            "evaluation",
            "export",
            "launch",
            "model",
            "online",
            "process",
            "seeing",
            "supervised",
        ),
        "tracking",
    },
    "demo": {"errors", "embedded", "config", "online", "supervised", "evaluation", "export", "tracking"},
    "cli": {"errors", "config", "embedded", "launch", "version"},
    "__main__": {"cli"},
    "__init__": {"api", "errors", "version"},
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
    assert imports(path) - {room} <= MAY_IMPORT[room]


def test_the_table_has_no_cycle() -> None:
    reached: dict[str, set[str]] = {}

    def below(room: str, trail: tuple[str, ...]) -> set[str]:
        assert room not in trail, f"cycle: {' -> '.join([*trail, room])}"
        if room not in reached:
            reached[room] = set().union(*(below(other, (*trail, room)) for other in MAY_IMPORT[room])) | {
                room
            }
        return reached[room]

    for room in MAY_IMPORT:
        below(room, ())


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
