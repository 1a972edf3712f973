"""The version stands in one file; the package, the command and the built distribution read it there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import hone
import hone.version

ROOT = Path(__file__).resolve().parents[2]


def test_the_package_and_the_command_have_the_version_of_its_file() -> None:
    command = [sys.executable, "-m", "hone", "--version"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert hone.__version__ == hone.version.__version__
    assert printed == f"hone {hone.version.__version__}\n"


def test_the_distribution_has_the_version_of_its_file() -> None:
    setuptools = pytest.importorskip("setuptools.config.pyprojecttoml")
    read = setuptools.read_configuration(ROOT / "pyproject.toml", ignore_option_errors=False)
    assert read["project"]["version"] == hone.version.__version__


def test_no_other_source_file_holds_the_version() -> None:
    text = f'"{hone.version.__version__}"'
    holders = [path for path in (ROOT / "src").rglob("*.py") if text in path.read_text()]
    assert holders == [ROOT / "src" / "hone" / "version.py"]
