"""What is secret in a run's settings is in no file of the run, and the run goes on all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from processes import ENVIRONMENT, GRPO, workplace

from hone.config import load
from hone.config.secrets import MASK, Secrets
from hone.errors import ConfigError

VARIABLES = {"MY_PW": "Sesame-1-open", "SERVICE": "Sesame-2-open", "PLAIN": "Sesame-3-open"}
LITERAL = {
    "url": "Sesame-4-open",
    "key": "Sesame-5-open",
    "form": "hf_Sesame6openSesame6open",
    "query": "Sesame-7-open",
}
REWARD = """
def told(completions, api_key, headers, note, plain, endpoint, url, **_):
    if any(len(text) % 3 == 0 for text in completions):
        raise ValueError(f"refused: {api_key} {headers} {note} {plain} {endpoint} {url}")
    return [1.0 + len(text) for text in completions]
"""
KWARGS = (
    f"{{api_key: {LITERAL['key']}, headers: {{Authorization: 'Bearer ${{oc.env:SERVICE}}'}}, note: {LITERAL['form']}, "
    f"plain: '${{oc.env:PLAIN}}', endpoint: 'https://host/x?api_key={LITERAL['query']}', "
    "url: 'https://me:${MY_PW}@host'}"
)
SETTINGS = (
    f"rewards.functions=[{{path: told.py:told, kwargs: {KWARGS}}}]",
    f"logger.mlflow.tracking_uri=https://me:{LITERAL['url']}@127.0.0.1:1",
    "logger.wandb.name=with ${oc.env:MY_PW}",
)


@pytest.mark.slow
def test_no_file_of_a_run_holds_a_secret_and_it_goes_on(tmp_path: Path) -> None:
    place = workplace(tmp_path / "place")
    (place / "told.py").write_text(REWARD)
    argv = (
        *GRPO,
        *SETTINGS,
        "grpo.val_period=1",
        "checkpointing.save_period=1",
        "checkpointing.checkpoint_dir=run",
    )
    argv += ("rewards.max_failure_fraction=1.0",)
    for steps in (2, 3):
        ended = hone(place, *argv, f"grpo.max_num_steps={steps}", variables=VARIABLES)
        assert ended.returncode == 0, ended.stderr
    assert "resumed from run/step_2" in ended.stdout
    held = {
        (secret, str(file.relative_to(place)))
        for file in (place / "run").rglob("*")
        if file.is_file()
        for secret in (*VARIABLES.values(), *LITERAL.values())
        if secret.encode() in file.read_bytes()
    }
    assert held == set()
    failures = "".join(file.read_text() for file in (place / "run" / "rollouts").glob("*.jsonl"))
    assert f"refused: {MASK}" in failures
    kwargs = yaml.safe_load((place / "run" / "config.yaml").read_text())["rewards"]["functions"][0]["kwargs"]
    assert kwargs == {
        "api_key": MASK,
        "headers": {"Authorization": "Bearer ${oc.env:SERVICE}"},
        "note": MASK,
        "plain": "${oc.env:PLAIN}",
        "endpoint": f"https://host/x?api_key={MASK}",
        "url": "https://me:${oc.env:MY_PW}@host",
    }
    shown = hone(place, "show", "run", variables={})
    assert shown.returncode == 0, shown.stderr


def hone(place: Path, *argv: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **ENVIRONMENT, **variables}
    return subprocess.run(
        [sys.executable, "-m", "hone", *argv], cwd=place, env=environment, capture_output=True, text=True
    )


def loaded(*settings: str) -> Any:
    return load("grpo", None, list(settings))


@pytest.fixture(autouse=True)
def _variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("hone.config.loading.load.SECRETS", Secrets())


def test_what_is_written_is_read_again_with_what_came_from_the_environment(tmp_path: Path) -> None:
    settings = ("logger.wandb.name=${oc.env:MY_PW}", "logger.wandb.project=${PLAIN}")
    first = loaded(*settings, "policy.model_name=hone/tiny-sft")
    (tmp_path / "config.yaml").write_text(first.to_yaml())
    assert not any(value in first.to_yaml() for value in VARIABLES.values())
    again = load("grpo", tmp_path / "config.yaml", [])
    assert again.config == first.config
    assert again.config.logger.wandb.name == VARIABLES["MY_PW"]


def test_a_masked_secret_is_asked_for_by_name(tmp_path: Path) -> None:
    text = loaded(f"logger.mlflow.tracking_uri=https://me:{LITERAL['url']}@host").to_yaml()
    assert f"https://me:{MASK}@host" in text
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"logger\.mlflow\.tracking_uri holds \*\*\* in place of a secret"):
        load("grpo", tmp_path / "config.yaml", [])


def test_settings_that_are_no_secrets_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and texts that look a little like secrets, and a variable that is said to be none."""
    monkeypatch.setenv("MODEL", "hone/tiny-sft")
    given = loaded(
        "policy.model_name=${oc.env:MODEL}",
        "policy.hf_config_overrides={eos_token: </s>, key: value, pad_token_id: 3}",
        "policy.generation.stop_strings=['***']",
        "logger.wandb.project=ssh://git@host",
        "rewards.functions=[{name: length, kwargs: {target: 6}}]",
    )
    written = yaml.safe_load(given.to_yaml())
    assert written["policy"] == given.config.policy.model_dump()
    assert written["logger"] == given.config.logger.model_dump()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:pw@host/x", "https://user:***@host/x"),
        ("s3://AKIAABCDEFGHIJKLMNOP@bucket", "s3://***@bucket"),
        ("postgres://u:p%40ss@h/db and http://a:b@c", "postgres://u:***@h/db and http://a:***@c"),
        ("x?token=abc&y=1", "x?token=***&y=1"),
        ("Authorization: Bearer abcdefgh.ij", "Authorization: Bearer ***"),
        ("sk-proj-abcdefghijklmnop", "***"),
        ("ratio 3:4 at 10:30, mail a@b.c, https://host:8000/x@y, git@host:repo", None),
        ("https://me:${oc.env:PW}@host", None),
        ("max_new_tokens=12 eos_token=</s>", None),
    ],
)
def test_forms_of_secrets(text: str, shown: str | None) -> None:
    assert Secrets().scrub(text) == (text if shown is None else shown)
