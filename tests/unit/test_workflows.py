"""GitHub's workflows run the Makefile's targets, every supported Python, and all parts of each suite."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def jobs(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text())["jobs"]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_targets_that_the_makefile_has(workflow: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = [step.get("run", "") for job in jobs(workflow.name).values() for step in job["steps"]]
    assert {command.split()[1] for command in commands if command.startswith("make ")} <= targets


def test_every_supported_python_is_tested() -> None:
    supported = re.findall(
        r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text()
    )
    assert jobs("tests.yml")["cpu"]["strategy"]["matrix"]["python"] == supported


@pytest.mark.parametrize(("workflow", "job"), [("tests.yml", "cpu"), ("nightly.yml", "long")])
def test_the_parts_of_a_suite_are_all_of_it(workflow: str, job: str) -> None:
    made = jobs(workflow)[job]
    (command,) = (step["run"] for step in made["steps"] if "SHARD=" in step.get("run", ""))
    count = int(command.rpartition("/")[2])
    assert made["strategy"]["matrix"]["part"] == [*range(1, count + 1)]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_to_commits(workflow: Path) -> None:
    used = re.findall(r"uses: (\S+)", workflow.read_text())
    exempt = {"pypa/gh-action-pypi-publish@release/v1"}  # its authors support this branch alone
    assert not [
        action for action in used if action not in exempt and not re.search(r"@[0-9a-f]{40}$", action)
    ]
