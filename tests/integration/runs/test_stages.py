"""Training in stages: a run begins with the model of another run, named by its folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from processes import GRPO, SFT, hone, metric_rows, same, steps_of, succeeded, tensors, workplace
from safetensors.torch import load_file

from hone.checkpoint.manifest import MANIFEST
from hone.config import load
from hone.export.resolve_run_models import model_of, step_of, with_models_of_runs

RECIPES = Path(__file__).resolve().parents[3] / "examples" / "configs" / "recipes"
STARTED_AT, FINALLY = 0.31, 0.90


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = workplace(tmp_path_factory.mktemp("stages"))
    first = ("sft.max_num_steps=4", "checkpointing.save_period=2", "checkpointing.checkpoint_dir=first")
    succeeded(hone(*SFT, *first, cwd=folder))
    return folder


def test_a_run_begins_with_the_model_of_another(place: Path) -> None:
    second = ("policy.model_name=first", "grpo.max_num_steps=1", "checkpointing.checkpoint_dir=second")
    said = succeeded(hone(*GRPO, *second, "policy.optimizer.kwargs.lr=0.0", cwd=place)).out
    found = model_of(step_of(str(place / "first"))).relative_to(place)
    assert f"policy.model_name=first is a run: its model is {found}" in said
    begun = load_file(place / found / "model.safetensors")
    ended = tensors(place / "second")  # a learning rate of 0: what it began with
    trained = tensors(place / "first")
    assert begun.keys() <= ended.keys()
    for name in begun:
        assert torch.equal(begun[name], ended[name]), name
    same(trained, ended)
    # What the run began with stays written down, so that going on cannot begin with something else.
    assert f"model_name: {found}" in (place / "second" / "config.yaml").read_text()
    assert steps_of(place / "second") == [1]


def test_an_earlier_step_and_a_folder_that_is_no_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    step = step_of("first/step_2")
    assert step == Path("first/step_2")
    found = model_of(step)
    assert found.parent == Path("first/hf")
    assert found.name.startswith("step_2-")
    written = (found / "model.safetensors").stat().st_mtime_ns
    assert model_of(step) == found
    assert (found / "model.safetensors").stat().st_mtime_ns == written, "converted twice"
    assert step_of(str(found)) is None  # a model already
    assert step_of("hone/tiny") is None
    assert step_of("nowhere") is None


def test_a_run_done_again_is_another_model(place: Path, tmp_path: Path) -> None:
    """The folder of a converted model is named after the checkpoint's content, so that a run done again in the same
    folder is never mistaken for the one before."""
    shutil.copytree(place / "first", tmp_path / "first")
    manifest = tmp_path / "first" / "step_4" / MANIFEST
    before = model_of(tmp_path / "first" / "step_4")
    manifest.write_text(manifest.read_text() + "\n")
    assert model_of(tmp_path / "first" / "step_4") != before


def test_a_plan_converts_nothing(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "first", tmp_path / "first")
    shutil.rmtree(tmp_path / "first" / "hf", ignore_errors=True)
    for name in ("train.jsonl", "validation.jsonl", "rewards.py"):
        shutil.copy(place / name, tmp_path)
    said = succeeded(hone("plan", *GRPO, "policy.model_name=first", cwd=tmp_path)).out
    assert "policy.model_name=first is a run" in said
    assert not (tmp_path / "first" / "hf").exists()


@pytest.mark.parametrize("file", ["state.pt", "policy/weights/.metadata", "policy/weights/__0_0.distcp"])
def test_a_plan_refuses_the_damaged_checkpoint_that_the_run_refuses(
    file: str, place: Path, tmp_path: Path
) -> None:
    for name in ("train.jsonl", "validation.jsonl", "rewards.py"):
        shutil.copy(place / name, tmp_path)
    shutil.copytree(place / "first", tmp_path / "first")
    shutil.rmtree(tmp_path / "first" / "hf", ignore_errors=True)
    spoilt = tmp_path / "first" / "step_4" / file
    content = bytearray(spoilt.read_bytes())
    content[len(content) // 2] ^= 1
    spoilt.write_bytes(content)
    planned = hone("plan", *GRPO, "policy.model_name=first", cwd=tmp_path)
    ran = hone(*GRPO, "policy.model_name=first", cwd=tmp_path)
    errors = [[line for line in one.err.splitlines() if line.startswith("error:")] for one in (planned, ran)]
    assert errors[0] == errors[1]
    assert f"{file} is not what was written" in errors[0][0]
    assert planned.code == ran.code == 1


def test_every_model_of_a_run_may_be_another_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    taught = load("distill", None, ["policy.model_name=hone/tiny", "teacher.model_name=first"])
    config = with_models_of_runs(taught).config
    found = str(model_of(Path("first/step_4")))
    assert config.teacher.model_name == config.teacher.tokenizer.name == found
    assert config.policy.model_name == "hone/tiny"
    assert taught.config.teacher.model_name == "first"  # nothing of the caller's is changed
    judged = with_models_of_runs(load("eval", None, ["generation.model_name=first"])).config
    assert judged.generation.model_name == judged.tokenizer.name == found


def test_a_run_without_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text("{}")
    ended = hone(*GRPO, "policy.model_name=begun", cwd=tmp_path)
    assert ended.code != 0
    assert "begun is neither a checkpoint (step_N) nor a run that has one" in ended.out + ended.err


@pytest.mark.parametrize("size", ["8K", "16K", "24K"])
def test_the_recipe(size: str) -> None:
    """What DeepScaleR's stages are, as NVIDIA's recipes of these names have them."""
    config = load("grpo", str(RECIPES / f"grpo-deepscaler-1.5b-{size}.yaml")).config
    length, low, high, kl, lr = {
        "8K": (8192, 0.2, 0.2, 0.0, 2e-6),
        "16K": (16384, 0.2, 0.28, 0.001, 2e-6),
        "24K": (24576, 0.2, 0.28, 0.0001, 5e-7),
    }[size]
    loss = config.loss_fn
    assert config.policy.max_total_sequence_length == length
    assert (loss.ratio_clip_min, loss.ratio_clip_max, loss.reference_policy_kl_penalty) == (low, high, kl)
    assert config.policy.optimizer.kwargs["lr"] == lr
    assert (config.grpo.num_prompts_per_step, config.grpo.num_generations_per_prompt) == (128, 8)
    assert [(f.name, f.weight) for f in config.rewards.functions] == [("math", 1.0), ("format", 0.5)]


@pytest.mark.slow
def test_the_recipe_scaled_down(tmp_path: Path) -> None:
    """Three stages of 20 steps on the embedded task; each begins exactly where the one before ended."""
    accuracies = []
    for stage in (1, 2, 3):
        config = RECIPES / f"deepscaler-tiny-{stage}.yaml"
        succeeded(hone("grpo", "--config", str(config), cwd=tmp_path, timeout=600))
        rows = metric_rows(tmp_path / "results" / f"deepscaler-tiny-{stage}")
        accuracies.append([float(row["val_accuracy"]) for row in rows if row["val_accuracy"]])
    assert accuracies[0][0] == pytest.approx(STARTED_AT, abs=0.01)
    # Greedy answers of the stage before are the same where the new length leaves them room, as 18 tokens do here.
    assert accuracies[1][0] == accuracies[0][-1]
    assert accuracies[2][0] == accuracies[1][-1]
    assert accuracies[2][-1] > FINALLY, accuracies
