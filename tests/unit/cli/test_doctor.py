"""`hone doctor`: its verdict, and what it names."""

from __future__ import annotations

from collections import namedtuple
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from hone.cli import doctor
from hone.cli.doctor import Finding
from hone.rollout.sandbox import Sandbox


def findings(*states: str) -> list[Finding]:
    return [Finding(f"part {i}", state, "as it is", f"pip install fix{i}") for i, state in enumerate(states)]  # type: ignore[arg-type]


@pytest.mark.parametrize(("states", "code"), [(("ok", "poor", "absent"), 0), (("ok", "bad"), 1)])
def test_only_what_keeps_a_run_from_starting_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], states: tuple[str, ...], code: int
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: iter(findings(*states)))
    assert doctor.main() == code
    out = capsys.readouterr().out
    assert ("A run can start" in out) == (code == 0)
    if code:
        assert "A run cannot start here: pip install fix1" in out


def test_a_missing_and_an_old_package_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "torch":
            raise metadata.PackageNotFoundError(name)
        return {"rich": "1.0"}.get(name, "3.0")

    wanted = ["torch>=2.6", "rich>=13", "numpy>=1.26", 'wandb>=9; extra == "wandb"']
    monkeypatch.setattr(metadata, "requires", lambda _: wanted)
    monkeypatch.setattr(metadata, "version", version)
    found = {finding.name: finding for finding in doctor.packages()}
    assert set(found) == {"torch", "rich"}
    assert found["torch"].fix.endswith(' -m pip install "torch>=2.6"')
    assert found["rich"].text == "1.0 is installed, >=13 is needed"


def test_without_torch_the_rest_is_still_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = [Finding("torch", "bad", "not installed", "pip install torch")]
    monkeypatch.setattr(doctor, "packages", lambda: iter(lacking))
    names = [finding.name for finding in doctor.examine()]
    assert names[:3] == ["python", "torch", "disk"]
    assert "wandb" in names
    assert "model" not in names


Usage = namedtuple("Usage", "free")


@pytest.mark.parametrize(("gib", "state"), [(0.1, "bad"), (2, "poor"), (50, "ok")])
def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gib: float, state: str) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(int(gib * 2**30)))
    assert doctor.disk(tmp_path).state == state


def test_optional_parts_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[3])
    real = doctor.importlib.util.find_spec

    def find_spec(name: str, package: Any = None) -> Any:
        return None if name == "wandb" else real(name, package)

    monkeypatch.setattr("importlib.util.find_spec", find_spec)
    found = {finding.name: finding for finding in doctor.optional()}
    assert found["wandb"].state == "absent"
    assert found["wandb"].fix.endswith(" -m pip install -e '.[wandb]'")


def test_what_is_open_to_programs_of_a_model_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.programs().text.startswith("programs that a model wrote: no network")
    monkeypatch.setattr("hone.rollout.sandbox.Sandbox", partial(Sandbox, namespaces=False))
    found = doctor.programs()
    assert found.state == "poor"
    assert "NO NAMESPACES" in found.text
    assert "require_isolation=false" in found.fix


def test_this_installation_can_start_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main() == 0, capsys.readouterr().out
