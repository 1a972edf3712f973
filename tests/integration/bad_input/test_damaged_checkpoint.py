"""A checkpoint that is not what was written: named to the file, never loaded, and the one before it loads."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import hone, same, succeeded, tensors

from tests.integration.bad_input.conftest import SFT, disk, fails

ARGV = (*SFT, "checkpointing.save_period=2", "sft.max_num_steps=4", "checkpointing.keep_top_k=5")
LONGER = (*ARGV, "sft.max_num_steps=5")


@pytest.fixture(scope="module")
def runs(place: Path) -> Path:
    """`two/`: checkpoints of steps 2 and 4. `whole/`: gone on to step 5."""
    succeeded(hone(*ARGV, "checkpointing.checkpoint_dir=two", cwd=place))
    shutil.copytree(place / "two", place / "whole")
    succeeded(hone(*LONGER, "checkpointing.checkpoint_dir=whole", cwd=place))
    return place


def shard(step: Path) -> Path:
    return max((step / "policy" / "weights").glob("*.distcp"), key=lambda file: file.stat().st_size)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x10
    file.write_bytes(data)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "shard_cut": (lambda step: cut(shard(step)), "distcp"),
    "shard_flipped": (lambda step: flip(shard(step)), "distcp"),
    "shard_missing": (lambda step: shard(step).unlink(), "distcp"),
    "metadata_missing": (lambda step: (step / "policy/weights/.metadata").unlink(), ".metadata"),
    "optimizer_missing": (lambda step: shutil.rmtree(step / "policy/optimizer"), "optimizer"),
    "state_flipped": (lambda step: flip(step / "state.pt"), "state.pt"),
    "schedule_cut": (lambda step: cut(step / "policy/optimizer/schedule.pt"), "schedule.pt"),
    "info_cut": (lambda step: cut(step / "training_info.json"), "training_info.json"),
    "info_of_another_kind": (
        lambda step: (step / "training_info.json").write_text("[]"),
        "training_info.json",
    ),
    "config_emptied": (lambda step: (step / "config.yaml").write_text(""), "config.yaml"),
    "config_missing": (lambda step: (step / "config.yaml").unlink(), "config.yaml"),
    "manifest_missing": (lambda step: (step / "manifest.json").unlink(), "manifest.json"),
    "manifest_cut": (lambda step: cut(step / "manifest.json"), "manifest.json"),
    "manifest_emptied": (lambda step: (step / "manifest.json").write_text("{}"), "manifest.json"),
    "manifest_of_another_kind": (lambda step: (step / "manifest.json").write_text('["a"]'), "manifest.json"),
    "all_gone": (lambda step: [shutil.rmtree(step), step.mkdir()], "manifest.json"),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(damage, runs, run_dir):
    shutil.copytree(runs / "two", run_dir)
    spoil, names = DAMAGES[damage]
    spoil(run_dir / "step_4")
    argv = (*LONGER, f"checkpointing.checkpoint_dir={run_dir.name}")
    fix = f"Remove the folder {run_dir.name}/step_4 to go on from step_2, then run the same command"
    fails(*argv, cwd=runs, says=(f"{run_dir.name}/step_4 is damaged", names, fix))
    if damage == "shard_flipped":  # once: do as the message says
        shutil.rmtree(run_dir / "step_4")
        ended = succeeded(hone(*argv, cwd=runs))
        assert f"resumed from {run_dir.name}/step_2" in ended.out
        same(tensors(run_dir), tensors(runs / "whole"))


@pytest.mark.slow
def test_damage_to_an_old_checkpoint_does_not_matter(runs, run_dir):
    shutil.copytree(runs / "two", run_dir)
    (run_dir / "step_2" / "training_info.json").write_text("[]")
    succeeded(hone(*LONGER, f"checkpointing.checkpoint_dir={run_dir.name}", cwd=runs))
    same(tensors(run_dir), tensors(runs / "whole"))


class TestConversion:
    def convert(self, step: Path, out: str, **kwargs):
        argv = (
            "--config",
            f"{step}/config.yaml",
            "--dcp-ckpt-path",
            f"{step}/policy/weights",
            "--hf-ckpt-path",
            out,
        )
        return fails("convert", *argv, **kwargs)

    def test_onto_a_full_disk(self, runs):
        with disk(runs / "small", "64k"):
            self.convert(runs / "two" / "step_4", "small/hf", cwd=runs, says=("small/hf", "disk is full"))
            assert not list((runs / "small").iterdir())

    @pytest.mark.parametrize("damage", ["shard_cut", "shard_flipped", "metadata_missing", "manifest_cut"])
    def test_of_a_damaged_checkpoint(self, damage, runs, run_dir):
        shutil.copytree(runs / "two" / "step_4", run_dir)
        DAMAGES[damage][0](run_dir)
        self.convert(run_dir, f"{run_dir}_hf", cwd=runs, says=(DAMAGES[damage][1], "Convert another"))
        assert not Path(f"{run_dir}_hf").exists()

    def test_of_what_is_not_there(self, runs):
        self.convert(runs / "nowhere", "hf", cwd=runs, says=("nowhere", "policy/weights"))
        fails("convert", "nowhere", "hf", cwd=runs, says=("nowhere",))

    def test_without_its_config(self, runs, run_dir):
        weights = f"{runs}/two/step_4/policy/weights"
        argv = ("--config", "none.yaml", "--dcp-ckpt-path", weights, "--hf-ckpt-path", f"{run_dir}_hf")
        fails("convert", *argv, cwd=runs, says=("none.yaml",))

    def test_into_a_folder_that_is_in_use(self, runs):
        out = runs / "in_use"
        out.mkdir()
        (out / "mine.txt").write_text("mine")
        self.convert(runs / "two" / "step_4", str(out), cwd=runs, says=("in_use", "not empty"))
        assert (out / "mine.txt").read_text() == "mine"

    def test_onto_a_file(self, runs):
        (runs / "onto").write_text("mine")
        self.convert(runs / "two" / "step_4", str(runs / "onto"), cwd=runs, says=("onto",))
        assert (runs / "onto").read_text() == "mine"

    def test_to_a_precision_that_does_not_exist(self, runs):
        fails("convert", "two", "hf", "--dtype", "int3", cwd=runs, code=2, says=("int3", "bfloat16"))


def test_a_part_of_a_checkpoint_is_not_a_model(runs):
    argv = (*ARGV, "policy.model_name=two/step_4/policy", "checkpointing.checkpoint_dir=from_step")
    fails(*argv, cwd=runs, says=("two/step_4/policy", "name the run's folder"))


def test_a_run_whose_checkpoint_is_damaged_is_no_model(runs, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(runs / "two", damaged)
    shard = next((damaged / "step_4" / "policy" / "weights").glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:-9])
    fails(*ARGV, f"policy.model_name={damaged}", cwd=runs, says=(shard.name, "Convert another checkpoint"))


@pytest.mark.slow
def test_a_run_without_its_optimizer_cannot_resume(runs, run_dir):
    argv = (*ARGV, f"checkpointing.checkpoint_dir={run_dir.name}", "checkpointing.save_optimizer=false")
    succeeded(hone(*argv, cwd=runs))
    fails(*argv, "sft.max_num_steps=5", cwd=runs, says=("optimizer", "hone convert"))
