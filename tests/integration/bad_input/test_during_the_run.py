"""What goes wrong while a run goes on: rewards, numbers, the disk. The last good checkpoint stays, and loads."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import torch
from processes import PPO, hone, make_model, make_tokenizer, same, steps_of, succeeded, sums, tensors
from tiny import make_learner, run
from transformers import AutoModelForCausalLM

from hone.errors import TrainingError
from tests.integration.bad_input.conftest import GRPO, SFT, disk, fails

FAULTS = {
    "raises": ("raise ValueError('no such unit: furlong')", ("ValueError", "furlong")),
    "too_few": ("return [1.0]", ("returned 1 rewards; expected 8, one for each completion",)),
    "too_many": ("return [1.0] * 99", ("99",)),
    "text": ("return ['good'] * len(completions)", ("'good'",)),
    "nothing": ("return None", ("None",)),
    "hangs": ("import time; time.sleep(99)", ("timeout after 0.5 s", "rewards.timeout_s")),
    "exits": ("import os; os._exit(3)", ("3",)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_reward_function_that_fails_always(fault, place):
    body, says = FAULTS[fault]
    (place / f"{fault}.py").write_text(f"def scored(prompts, completions, **columns):\n    {body}\n")
    argv = (*GRPO, f"rewards.functions=[{{path: '{fault}.py:scored'}}]", "rewards.timeout_s=0.5")
    fails(*argv, f"checkpointing.checkpoint_dir=reward_{fault}", cwd=place, lines=7, says=("scored", *says))


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("nowhere.py:scored", ("nowhere.py",)),
        ("rewards.py:lettres", ("there is no 'lettres' in", "rewards.py")),
        ("rewards.py", ("rewards.py", "function")),
        ("answr", ("answr", "answer")),
    ],
)
def test_a_reward_function_that_is_not_there(target, says, place):
    fails(*GRPO, f"rewards.functions=[{{path: '{target}'}}]", cwd=place, says=says)


@pytest.mark.slow
def test_a_reward_that_fails_later_leaves_the_checkpoint(place, run_dir):
    """Good for two steps, then broken: the run stops, and goes on once the function is mended."""
    file = place / "moody.py"
    mended = "def scored(prompts, completions, **columns):\n    return [float(len(c)) for c in completions]\n"
    broken = mended.replace("    return", "    if STEP: raise ValueError('out of luck')\n    return")
    file.write_text(mended)
    argv = (
        *GRPO,
        "rewards.functions=[{path: 'moody.py:scored'}]",
        f"checkpointing.checkpoint_dir={run_dir.name}",
        "checkpointing.save_period=1",
    )
    succeeded(hone(*argv, "grpo.max_num_steps=2", cwd=place))
    file.write_text(broken.replace("STEP", "True"))
    fails(*argv, "grpo.max_num_steps=4", cwd=place, lines=7, says=("out of luck",))
    assert steps_of(run_dir) == [1, 2]
    file.write_text(mended)
    ended = succeeded(hone(*argv, "grpo.max_num_steps=4", cwd=place))
    assert f"resumed from {run_dir.name}/step_2" in ended.out


def spoilt_model(place):
    """One weight is not a number."""
    folder = place / "spoilt"
    if not folder.exists():
        make_model(folder, make_tokenizer([row["prompt"] for row in sums(50)]))
        model = AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            model.model.layers[0].mlp.down_proj.weight[0, 0] = float("nan")
        model.save_pretrained(folder)
    return "policy.model_name=spoilt"


@pytest.mark.parametrize(("kind", "period"), [(SFT, "sft.val_period=1"), (GRPO, "grpo.val_period=0")])
def test_a_weight_that_is_no_number(kind, period, place, run_dir):
    argv = (*kind, spoilt_model(place), period, f"checkpointing.checkpoint_dir={run_dir.name}")
    fails(*argv, cwd=place, says=("model.layers.0.mlp.down_proj.weight of spoilt", "nan"))
    assert steps_of(run_dir) == []


@pytest.mark.parametrize("reward", ["nan", "inf"])
def test_rewards_of_ppo_that_are_no_numbers(reward, place, run_dir):
    """Each is a failed completion with a cause, and so many stop the run."""
    file = f"ppo_{reward}.py"
    (place / file).write_text(
        f"def scored(prompts, completions, **columns):\n    return [float('{reward}')] * len(completions)\n"
    )
    argv = (*PPO, f"rewards.functions=[{{path: '{file}:scored'}}]", "ppo.max_num_steps=1", "ppo.val_period=0")
    says = ("scored", "NaN" if reward == "nan" else reward)
    fails(*argv, f"checkpointing.checkpoint_dir={run_dir.name}", cwd=place, lines=7, says=says)
    assert steps_of(run_dir) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", [SFT, pytest.param(GRPO, marks=pytest.mark.slow)])
def test_a_learning_rate_that_destroys_the_model(kind, place, run_dir):
    """The message says where to go back to; going back with another rate works."""
    name = kind[0]
    argv = (*kind, f"checkpointing.checkpoint_dir={run_dir.name}", "checkpointing.save_period=1")
    succeeded(hone(*argv, f"{name}.max_num_steps=1", cwd=place))
    good = tensors(run_dir, step=1)
    ended = fails(
        *argv,
        f"{name}.max_num_steps=9",
        "policy.optimizer.kwargs.lr=1e30",
        "checkpointing.allow_config_change=true",
        "checkpointing.keep_top_k=2",
        cwd=place,
        says=("policy.optimizer.kwargs.lr", f"The last checkpoint is {run_dir.name}/step_"),
    )
    for step in steps_of(run_dir):
        assert all(torch.isfinite(tensor).all() for tensor in tensors(run_dir, step=step).values())
    same(tensors(run_dir, step=1), good)
    for step in steps_of(run_dir)[1:]:
        assert f"remove that folder to go back to step_{step - 1}" in ended.err
        shutil.rmtree(run_dir / f"step_{step}")
    calm = (f"{name}.max_num_steps=3", "checkpointing.allow_config_change=true")
    assert f"resumed from {run_dir.name}/step_1" in succeeded(hone(*argv, *calm, cwd=place)).out


@pytest.mark.slow
def test_a_learning_rate_that_destroys_the_value_model(place, run_dir):
    where = f"checkpointing.checkpoint_dir={run_dir.name}"
    argv = (*PPO, where, "ppo.max_num_steps=9", "value.optimizer.kwargs.lr=1e30", "ppo.val_period=0")
    fails(*argv, cwd=place, says=("value.optimizer.kwargs.lr",))


def test_a_value_model_of_another_vocabulary(place):
    make_model(place / "other", make_tokenizer([row["prompt"] for row in sums(50, seed=3)]))
    says = ("value.tokenizer.name=other", "another vocabulary than policy.tokenizer.name=model")
    fails(*PPO, "value.model_name=other", "value.tokenizer.name=other", cwd=place, code=2, says=says)


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    learner = make_learner()
    with torch.no_grad():
        learner.model.lm_head.weight[3, 4] = float("inf")
    with pytest.raises(TrainingError, match=r"lm_head\.weight holds nan or infinity after update 0"):
        run(learner.save(tmp_path))
    assert not list(tmp_path.iterdir())


def checkpoint_bytes(run_dir) -> int:
    return sum(file.stat().st_blocks * 512 for file in run_dir.rglob("*") if file.is_file())


@pytest.mark.slow
@pytest.mark.parametrize(
    "share", [0.3, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.75, 0.9))]
)
def test_a_disk_that_fills_up(share, place, run_dir):
    """Room for a checkpoint and a part of another. Then more room, and the run goes on from the first."""
    path = place / f"disk_{int(100 * share)}"
    argv = (*SFT, "checkpointing.save_period=1", "checkpointing.keep_top_k=9", "sft.max_num_steps=3")
    measured = place / "measured"
    if not measured.exists():
        succeeded(hone(*argv, "sft.max_num_steps=1", "checkpointing.checkpoint_dir=measured", cwd=place))
    one = checkpoint_bytes(measured / "step_1")
    around = checkpoint_bytes(measured) - one
    with disk(path, f"{int(around + one * (1 + share))}"):
        where = f"checkpointing.checkpoint_dir={path.name}"
        fails(*argv, where, cwd=place, says=("disk", "full", "ree some space", "run the same command"))
        assert steps_of(path) == [1]
        assert not list(path.glob(".writing*"))
        subprocess.run(["mount", "-o", "remount,size=64m", str(path)], check=True)
        ended = succeeded(hone(*argv, where, cwd=place))
        assert f"resumed from {path.name}/step_1" in ended.out
        succeeded(hone(*argv, f"checkpointing.checkpoint_dir={run_dir.name}", cwd=place))
        same(tensors(path), tensors(run_dir))


def test_a_disk_that_is_full_from_the_start(place):
    path = place / "disk_full"
    with disk(path, "64k"):
        (path / "filler").write_bytes(b"x" * 65536)
        fails(*SFT, f"checkpointing.checkpoint_dir={path.name}", cwd=place, says=("disk", "full"))


@pytest.mark.slow
def test_files_that_may_not_grow(place, run_dir):
    """The limit that a shell or a cluster sets on a file's size: another way to have no room."""
    argv = (*SFT, f"checkpointing.checkpoint_dir={run_dir.name}", "checkpointing.save_period=1")
    fails(
        *argv, cwd=place, limits={"RLIMIT_FSIZE": 60_000}, says=("cannot write checkpoint", "File too large")
    )
    assert steps_of(run_dir) == []


class TestFolder:
    def test_is_a_file(self, place):
        (place / "a_file").write_text("mine")
        fails(
            *SFT,
            "checkpointing.checkpoint_dir=a_file",
            cwd=place,
            code=2,
            says=("checkpointing.checkpoint_dir=a_file", "file"),
        )
        assert (place / "a_file").read_text() == "mine"

    def test_is_below_a_file(self, place):
        (place / "a_file").write_text("mine")
        fails(
            *SFT,
            "checkpointing.checkpoint_dir=a_file/run",
            cwd=place,
            code=2,
            says=("checkpointing.checkpoint_dir=a_file/run",),
        )

    def test_is_read_only(self, place):
        path = place / "read_only"
        with disk(path, "1m"):
            subprocess.run(["mount", "-o", "remount,ro", str(path)], check=True)
            says = ("checkpointing.checkpoint_dir=read_only", "ead-only")
            fails(*SFT, "checkpointing.checkpoint_dir=read_only", cwd=place, code=2, says=says)

    def test_of_the_logs_is_named(self, place, run_dir):
        (place / "a_file").write_text("mine")
        argv = (*SFT, f"checkpointing.checkpoint_dir={run_dir.name}", "logger.log_dir=a_file")
        fails(*argv, cwd=place, code=2, says=("logger.log_dir=a_file",))
