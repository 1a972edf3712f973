"""Which settings the source reads: attributes of sections, found in the syntax tree with a little inference of types.

A setting is read where an attribute of its name is loaded from something that is its section: a chain that ends in the
section's own key (`config.policy.optimizer.name`), a name or an attribute annotated with the section's class, a name
that was assigned one of those, or an element of a list of sections. Where no other class has an attribute of that
name, any load of it counts.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hone.config.keys import all_keys, submodel
from hone.config.schema import ROOTS, section_of
from hone.config.schema.base import derived_expression

SOURCE = Path(__file__).resolve().parents[2] / "src" / "hone"
NO_EFFECT = (
    "config",
    "cli/plan.py",
    "planning/plan_report.py",
    "training/startup.py",
    "training/child_run.py",
    "report",
    "tune",
    "api",
    "cli.py",
    "cli",
    "demo.py",
    "__init__.py",
)
"""What reads settings to check, to print or to hand them on. Reading them there changes no run."""


def section_of_kind(root: type[Any]) -> str:
    """The run's own section of a root."""
    return section_of(next(kind for kind, model in ROOTS.items() if model is root))


@dataclass(frozen=True)
class Leaf:
    """A setting by the class that first has it."""

    owner: str
    name: str

    def __str__(self) -> str:
        return f"{self.owner}.{self.name}"


def leaves() -> dict[Leaf, str]:
    """Every setting once, with one key that it has."""
    found: dict[Leaf, str] = {}
    for root in ROOTS.values():
        for key, _, owner in all_keys(root):
            name = key.rpartition(".")[2]
            first = next(
                base for base in reversed(owner.__mro__) if name in getattr(base, "model_fields", {})
            )
            found.setdefault(Leaf(first.__name__, name), key)
    return found


class Sections:
    """The schema's classes by the keys that hold them, and which classes are one another's."""

    def __init__(self) -> None:
        self.classes: dict[str, type[Any]] = {}
        self.of_key: dict[str, set[str]] = defaultdict(set)
        for root in ROOTS.values():
            self._walk(root)
            for name in ("algorithm", "critic"):  # properties of the roots that are sections
                if isinstance(getattr(root, name, None), property):
                    section = {"critic": "value"}.get(name, section_of_kind(root))
                    self.of_key[name] |= self.of_key[section]

    def _walk(self, model: type[Any]) -> None:
        self.classes[model.__name__] = model
        for base in model.__mro__:
            if hasattr(base, "model_fields"):
                self.classes[base.__name__] = base
        for name, field in model.model_fields.items():
            inner, _ = submodel(field.annotation)
            if inner is not None:
                self.of_key[name].add(inner.__name__)
                self._walk(inner)

    def is_one(self, name: str, owner: str) -> bool:
        """Whether an object of the class `name` may be one of `owner`."""
        mine, other = self.classes[name], self.classes[owner]
        return issubclass(mine, other) or issubclass(other, mine)


class Reads(ast.NodeVisitor):
    """The settings that one file reads, as (class, name); and all names of attributes that it loads."""

    def __init__(self, sections: Sections, attributes: dict[str, set[str]]) -> None:
        self.sections, self.attributes = sections, attributes
        self.found: set[tuple[str, str]] = set()
        self.names: set[str] = set()
        self._scopes: list[dict[str, set[str]]] = [{}]

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        arguments = node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        self._scopes.append({item.arg: annotated(item.annotation, self.sections) for item in every})
        self.generic_visit(node)
        self._scopes.pop()

    visit_AsyncFunctionDef = visit_FunctionDef
    visit_Lambda = visit_FunctionDef

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            self._bind(target, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.generic_visit(node)
        if isinstance(node.target, ast.Name):
            self._scopes[-1].setdefault(node.target.id, set()).update(
                annotated(node.annotation, self.sections)
            )

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.generic_visit(node)
        self._bind(node.target, node.value)

    def visit_For(self, node: ast.For | ast.comprehension) -> None:
        self._bind(node.target, node.iter)
        self.generic_visit(node)

    visit_comprehension = visit_For

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> None:
        for part in node.generators:
            self._bind(part.target, part.iter)
        self.generic_visit(node)

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _comprehension

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        if isinstance(node.ctx, ast.Load):
            self.names.add(node.attr)
            self.found |= {(name, node.attr) for name in self._types(node.value)}

    def _bind(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, other in zip(target.elts, value.elts, strict=False):
                self._bind(one, other)
        elif isinstance(target, ast.Name):
            self._scopes[-1].setdefault(target.id, set()).update(self._types(value))

    def _types(self, node: ast.expr) -> set[str]:
        """The sections that an expression may be."""
        if isinstance(node, ast.Name):
            return next((scope[node.id] for scope in reversed(self._scopes) if node.id in scope), set())
        if isinstance(node, ast.Attribute):
            return self.attributes.get(node.attr, set()) | self.sections.of_key.get(node.attr, set())
        if isinstance(node, ast.BoolOp):
            return set().union(*map(self._types, node.values))
        if isinstance(node, ast.IfExp):
            return self._types(node.body) | self._types(node.orelse)
        if isinstance(node, ast.List | ast.Tuple):
            return set().union(*map(self._types, node.elts))
        if isinstance(node, ast.Starred | ast.Subscript | ast.Await):
            return self._types(node.value)
        return set()


def annotated(annotation: ast.expr | None, sections: Sections) -> set[str]:
    """The sections that an annotation names, in lists and unions, too."""
    if annotation is None:
        return set()
    return {
        node.id for node in ast.walk(annotation) if isinstance(node, ast.Name) and node.id in sections.classes
    }


def _files() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(SOURCE.rglob("*.py")):
        yield str(path.relative_to(SOURCE)), ast.parse(path.read_text())


def others(trees: dict[str, ast.Module]) -> set[str]:
    """Names of attributes and methods that classes outside the schema have."""
    found = set()
    for file, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
            if isinstance(node, ast.ClassDef) and not file.startswith("config/schema"):
                for item in node.body:
                    if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
                        found.add(item.name)
                    elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                        found.add(item.target.id)
    return found


def unread() -> dict[Leaf, str]:
    """Settings that nothing reads which changes a run, with a key of each."""
    sections, trees = Sections(), dict(_files())
    attributes: dict[str, set[str]] = defaultdict(set)
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                attributes[node.target.id] |= annotated(node.annotation, sections)
    found, names = set[tuple[str, str]](), set[str]()
    for file, tree in trees.items():
        if not file.startswith(NO_EFFECT):
            reads = Reads(sections, attributes)
            reads.visit(tree)
            found |= reads.found
            names |= reads.names
    shared = others(trees)

    def is_read(leaf: Leaf) -> bool:
        typed = any(name == leaf.name and sections.is_one(owner, leaf.owner) for owner, name in found)
        return typed or (leaf.name not in shared and leaf.name in names)

    through = {**_properties(trees, sections), **_derived(sections)}
    return {
        leaf: key
        for leaf, key in leaves().items()
        if not is_read(leaf) and not any(is_read(other) for other in through.get(leaf, ()))
    }


def _properties(trees: dict[str, ast.Module], sections: Sections) -> dict[Leaf, list[Leaf]]:
    """Settings that a property or method of their own section reads, and which."""
    result: dict[Leaf, list[Leaf]] = defaultdict(list)
    for file, tree in trees.items():
        classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        for model in (
            node for node in classes if file.startswith("config/schema") and node.name in sections.classes
        ):
            for method in (item for item in model.body if isinstance(item, ast.FunctionDef)):
                reads = Reads(sections, defaultdict(set))
                reads._scopes.append({"self": {model.name}})
                reads.generic_visit(method)
                for owner, name in reads.found:
                    for leaf in leaves():
                        if leaf.name == name and sections.is_one(owner, leaf.owner):
                            result[leaf].append(Leaf(model.name, method.name))
    return result


def _derived(sections: Sections) -> dict[Leaf, list[Leaf]]:
    """Settings from which others of their own section are derived, and which."""
    result: dict[Leaf, list[Leaf]] = defaultdict(list)
    for model in sections.classes.values():
        for name in model.model_fields:
            for source in re.findall(r"\$\{\.(\w+)\}", derived_expression(model, name) or ""):
                result[Leaf(model.__name__, source)].append(Leaf(model.__name__, name))
    return result
