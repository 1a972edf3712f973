"""Settings of `hone online-dpo` that cannot be: one line each, the same from `hone plan` as from the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from hone.cli import main
from hone.config import load

REFUSED = {
    "online_dpo.num_generations_per_prompt=1": "online_dpo.num_generations_per_prompt=1: expected at least 2",
    "num_generations=1": "num_generations=1: expected at least 2",
    "policy.train_global_batch_size=5 online_dpo.num_prompts_per_step=16": "online_dpo.num_prompts_per_step=16 is not "
    "a multiple of policy.train_global_batch_size=5: set online_dpo.num_prompts_per_step to 15, or change "
    "policy.train_global_batch_size",
    "online_dpo.loss_type=kto": "online_dpo.loss_type=kto: expected 'sigmoid', 'ipo' or 'hinge'",
    "loss_type=aot": "loss_type=aot: expected 'sigmoid', 'ipo' or 'hinge'",
    "online_dpo.beta=much": "online_dpo.beta=much: expected a finite number, or {step: number}, got 'much'",
    "online_dpo.beta=-1": "online_dpo.beta: expected more than 0, got -1",
    "online_dpo.beta={}": "online_dpo.beta: a schedule begins at step 0, but its first is missing",
    "beta=[0.1,0.05]": "beta=[0.1, 0.05]: expected one beta, or betas by step: {0: 0.1, STEP: 0.05}",
    "missing_eos_penalty=0": "missing_eos_penalty=0: expected more than 0.0",
    "online_dpo.betta=0.1": "unknown key online_dpo.betta: did you mean online_dpo.beta?",
    "grpo.num_generations_per_prompt=4": "unknown key grpo.num_generations_per_prompt: did you mean "
    "online_dpo.num_generations_per_prompt?",
    "reward_model_path=models/rm": "unknown key reward_model_path: write "
    "rewards.functions=[{name: reward_model, kwargs: {model: PATH}}]",
    "rewards.functions=[{name:reward_model}]": "reward 'reward_model': needs kwargs.model: the name or folder of a "
    "reward model",
    "rewards.functions=[{name:reward_model,kwargs:{model:./rm}}]": "reward 'reward_model': model "
    "folder ./rm does not exist",
    "online_dpo.max_rollout_turns=2": "online_dpo.max_rollout_turns=2 needs an environment that answers between "
    "turns: give env.tools or env.path, or set it to 1",
}


@pytest.mark.parametrize("overrides", REFUSED)
def test_a_wrong_setting_is_one_line_in_the_plan_and_in_the_run(
    overrides: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [text.replace(":", ": ") if "[{" in text else text for text in overrides.split()]
    for command in (["plan", "online-dpo"], ["online-dpo"]):
        assert main([*command, *arguments]) != 0
        said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("online-dpo: ")]
        assert said == [f"error: {REFUSED[overrides]}"]


def test_trls_names_are_read() -> None:
    overrides = [
        "beta=[0.3]",
        "loss_type=ipo",
        "missing_eos_penalty=1.0",
        "max_new_tokens=9",
        "temperature=0.9",
    ]
    config = load("online-dpo", None, [*overrides, "num_generations=4"]).config
    settings, sampling = config.online_dpo, config.policy.generation
    assert (settings.beta, settings.loss_type, settings.missing_eos_penalty) == (0.3, "ipo", 1.0)
    assert (settings.num_generations_per_prompt, sampling.max_new_tokens, sampling.temperature) == (4, 9, 0.9)


def test_a_batch_of_updates_decides_how_many_prompts_a_step_has() -> None:
    config = load("online-dpo", None, ["policy.train_global_batch_size=5"]).config
    assert config.online_dpo.num_prompts_per_step == 15
