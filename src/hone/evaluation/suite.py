"""Suites: evaluation tasks by name, each one YAML file of `hone/evaluation/suites`.

A file holds all that decides a number: the data set with its split and columns, the prompt of a chat model and of a
base model, the few-shot examples, how an answer is extracted (strictly and flexibly), how it is graded, the metric
that is the headline, and the paper whose protocol it is. `version` is raised when any of them changes.

Templates are Jinja over the columns of a row (`{{ question }}`); expressions (`choices`, `label`) are Jinja
expressions that give a list or a number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import jinja2
import yaml
from jinja2.sandbox import SandboxedEnvironment
from pydantic import ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

from hone.config.schema.base import ConfigModel
from hone.config.suite_names import FOLDER, unknown_suite
from hone.errors import ConfigError, DataError


class _Section(ConfigModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SuiteData(_Section):
    """Where the problems come from."""

    name: str
    """Name on the Hugging Face hub."""
    subset: str | None = None
    split: str
    columns: tuple[str, ...]
    """Columns that the templates read. A data set without one of them is refused."""
    problem: tuple[str, ...]
    """Columns whose text is the problem itself, for the check of contamination."""


class FewShot(_Section):
    """Solved examples before the problem. Chat prompts have none unless `eval.num_fewshot` asks for them."""

    split: str
    count: int
    same: str | None = None
    """Only examples that have the problem's value in this column."""
    separator: str = "\n\n"


class SuitePrompt(_Section):
    """Templates of the prompt."""

    plain: str
    """Of a model without a chat template."""
    chat: str | None = None
    """The user's message to a chat model; null: `plain`."""
    intro: str = ""
    """Text before the examples."""


class Regex(_Section):
    """An extractor: the first group of a regular expression's last match."""

    regex: str


class Suite(_Section):
    """One evaluation task."""

    name: str
    version: int
    title: str
    paper: str
    protocol: str
    """What follows the paper, and what differs from it."""
    kind: Literal["generation", "code", "loglikelihood"]
    data: SuiteData
    fewshot: FewShot | None = None
    prompt: SuitePrompt
    target: str = ""
    """The answer of a few-shot example, as a template."""
    gold: str = ""
    """The right answer, which the grader compares with."""
    extraction: Mapping[Literal["strict", "flexible"], str | Regex] = Field(default_factory=dict)
    grader: Literal["answer", "math", "code", "instructions"] = "answer"
    choices: str = ""
    """Expression of the list of choices of a log-likelihood task."""
    continuation: str = " {{ choice }}"
    """The text whose log-likelihood is compared. It and `prompt.plain` may read `choice`."""
    label: str = ""
    """Expression of the right choice's number, or of a list with 1 for every true choice and 0 for the others."""
    metric: str
    """The headline: an extractor's name, or `acc`, `acc_norm`, `mc2`."""
    max_new_tokens: int | None = None
    """Limit of an answer to a plain prompt, which a base model does not end by itself."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer to a plain prompt."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed = ("choices", "label") if self.kind == "loglikelihood" else ("extraction",)
        if missing := [name for name in needed if not getattr(self, name)]:
            raise ValueError(f"kind={self.kind} needs {', '.join(missing)}")
        return self

    def render(self, template: str, row: Mapping[str, Any], **further: Any) -> str:
        """A template filled from a row. Raises DataError for a row that it cannot be filled from."""
        return str(self._evaluated(lambda: _ENVIRONMENT.from_string(template).render(**row, **further)))

    def value(self, expression: str, row: Mapping[str, Any]) -> Any:
        """An expression's value for a row. Raises DataError as `render`."""
        return self._evaluated(
            lambda: _ENVIRONMENT.compile_expression(expression, undefined_to_none=False)(**row)
        )

    def _evaluated(self, evaluate: Any) -> Any:
        try:
            return evaluate()
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise DataError(f"suite {self.name}: a template does not fit the row: {error}") from error


def load_suite(name: str) -> Suite:
    """A suite by its name, or by the path of a YAML file. Raises ConfigError: an unknown name, with the nearest; a
    file that is not a suite's."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(unknown_suite(name))
    return _read(path)


@cache
def _read(path: Path) -> Suite:
    try:
        return Suite.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")), strict=False)
    except (yaml.YAMLError, ValidationError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a suite: {error}") from error


def _without_wikihow_marks(text: str) -> str:
    """A WikiHow text of HellaSwag without `[header]`, `[title]` and the like."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


_ENVIRONMENT = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
_ENVIRONMENT.filters["without_wikihow_marks"] = _without_wikihow_marks
