"""Calls are the commands: the same numbers, the same folder, and a process that is afterwards what it was."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import calls
import pytest
import torch
from calls import TINY, importable, lessons, rows, weights

import hone
from hone.errors import CheckpointError, ConfigError, DataError, HoneError, Interrupted, RewardError

SFT: dict[str, Any] = {
    "max_steps": 1,
    "num_train_epochs": 100,
    "policy": {"train_global_batch_size": 4, "train_micro_batch_size": 4},
    "logger": {"tensorboard_enabled": False},
    "eval_steps": 0,
}


def sft(folder: Path, **more: Any) -> hone.Result:
    return hone.sft("hone/tiny", lessons(8), folder=folder, **{**SFT, **more})


def test_a_call_within_an_event_loop_and_one_in_a_thread(tmp_path: Path) -> None:
    async def cell() -> tuple[hone.Result, bool]:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        result = sft(tmp_path / "a")
        await asyncio.sleep(0)
        return result, asyncio.current_task() is task and asyncio.get_running_loop() is loop

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    result, same = asyncio.run(cell())
    assert same
    assert result.step == 1
    found: list[hone.Result] = []
    thread = threading.Thread(target=lambda: found.append(sft(tmp_path / "b")))
    thread.start()
    thread.join()
    assert weights(found[0].folder / "step_1") == weights(result.folder / "step_1"), "twice the same"
    assert (
        signal.getsignal(signal.SIGINT),
        signal.getsignal(signal.SIGTERM),
        torch.get_num_threads(),
    ) == before


@pytest.mark.slow
def test_what_comes_back_is_what_is_in_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = sft(tmp_path / "run")
    assert result.folder == tmp_path / "run"
    assert result.summary["step"] == 1
    assert result.metrics["train_loss"] == pytest.approx(result.history["train_loss"].iloc[-1])
    assert list(result.history.index) == [1]
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert result.history[0]["step"] == 1
    assert result.checkpoint == tmp_path / "run" / "step_1"
    assert result.config["data"]["train"]["dataset_name"] == str(tmp_path / "run" / "data" / "train.jsonl")
    assert result.rollouts() == []
    assert "step 1 of 1, finished" in repr(result)
    assert "<table>" in result._repr_html_()
    assert result.report() == tmp_path / "run" / "report.html"
    capsys.readouterr()
    result.show()
    assert capsys.readouterr().out.startswith("sft: hone/tiny on ")
    model, tokenizer = result.model(), result.tokenizer()
    assert model.config.architectures == ["Qwen3ForCausalLM"]
    assert tokenizer.encode("1 + 1")
    saved = hone.convert(result, tmp_path / "hf")
    again = type(model).from_pretrained(saved)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    with pytest.raises(CheckpointError, match="no checkpoint of step 9; it has: 1"):
        result.save(tmp_path / "none", step=9)
    assert hone.load_run(str(result.folder)).metrics == result.metrics
    with pytest.raises(DataError, match="did you mean"):
        hone.load_run(tmp_path / "rum")


@pytest.mark.slow
def test_the_same_call_again_is_the_finished_run_and_more_steps_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sft(tmp_path / "run")
    capsys.readouterr()
    assert sft(tmp_path / "run").summary["step"] == 1
    assert "is a finished run" in capsys.readouterr().out
    longer = sft(tmp_path / "run", max_steps=3)
    assert "resumed from" in capsys.readouterr().out
    straight = sft(tmp_path / "straight", max_steps=3)
    assert weights(longer.folder / "step_3") == weights(straight.folder / "step_3")
    with pytest.raises(CheckpointError, match="is a run on other rows"):
        hone.sft("hone/tiny", lessons(9), folder=tmp_path / "run", **SFT)
    with pytest.raises(CheckpointError, match="made with other settings"):
        sft(tmp_path / "run", max_steps=4, learning_rate=1.0)


def test_errors_are_errors_and_leave_no_folder(tmp_path: Path) -> None:
    wrong: list[tuple[type[HoneError], dict[str, Any]]] = [
        (ConfigError, {"model": "hone/tiny", "sft": {"max_num_stps": 1}}),
        (ConfigError, {"model": object()}),
        (ConfigError, {"model": "hone/tiny", "config": 3}),
        (ConfigError, {"model": "hone/tiny", "config": "nowhere.yaml"}),
        (DataError, {"model": "hone/tiny", "dataset": [3]}),
    ]
    for kind, arguments in wrong:
        with pytest.raises(kind):
            hone.sft(folder=tmp_path / "run", **arguments)
        assert not (tmp_path / "run").exists()
    with pytest.raises(RewardError, match="no reward function 'nobody'"):
        hone.grpo("hone/tiny-sft", "nobody", rows(), folder=tmp_path / "run", **TINY)
    with pytest.raises(ConfigError, match="without reward_funcs"):
        hone.grpo("hone/tiny-sft", dataset=rows(), folder=tmp_path / "run", reward_weights=[1])


@pytest.mark.slow
def test_rewards_of_this_very_process(tmp_path: Path) -> None:
    worth = 0.5

    def bonus(completions: list[Any], **columns: Any) -> list[float]:
        return [worth for _ in completions]

    functions = [importable, bonus, lambda completions, **columns: [0.25] * len(completions)]
    result = hone.grpo("hone/tiny-sft", functions, rows(), folder=tmp_path / "run", max_steps=1, **TINY)
    metrics = result.metrics
    assert (metrics["reward_bonus"], metrics["reward_function_3"]) == (0.5, 0.25)
    assert metrics["reward"] == pytest.approx(metrics["reward_importable"] + 0.75)
    assert len(result.rollouts()) == 8
    assert result.rollouts(7) == []


@pytest.mark.slow
def test_the_command_line_does_the_same_to_the_bit_and_goes_on_with_it(tmp_path: Path) -> None:
    worth = 0.5

    def bonus(completions: list[Any], **columns: Any) -> list[float]:
        return [worth * len(said[0]["content"]) / 100 for said in completions]

    ours = hone.grpo("hone/tiny-sft", [importable, bonus], rows(), folder=tmp_path / "a", max_steps=4, **TINY)
    config = ours.folder / "config.yaml"

    def command(*overrides: str) -> str:
        words = [sys.executable, "-m", "hone", "grpo", "--config", str(config), *overrides]
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, cwd="/")
        assert done.returncode == 0, done.stderr
        return done.stdout

    command(f"checkpointing.checkpoint_dir={tmp_path / 'b'}")
    assert weights(ours.folder / "step_4") == weights(tmp_path / "b" / "step_4")
    for step in range(1, 5):
        name = f"rollouts/step_{step}.jsonl"
        assert (ours.folder / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert "resumed from" in command("grpo.max_num_steps=6"), "functions that were in memory are there"
    straight = hone.grpo(
        "hone/tiny-sft", [importable, bonus], rows(), folder=tmp_path / "c", max_steps=6, **TINY
    )
    assert weights(ours.folder / "step_6") == weights(straight.folder / "step_6")


@pytest.mark.slow
def test_ctrl_c_saves_and_raises_and_the_same_call_goes_on(tmp_path: Path) -> None:
    def call(folder: str, **more: Any) -> hone.Result:
        return sft(tmp_path / folder, max_steps=40, **more)

    heard = signal.getsignal(signal.SIGINT)
    stop = threading.Event()

    def press() -> None:
        path = tmp_path / "run" / "metrics.csv"
        while not stop.is_set() and not (path.is_file() and path.read_text().count("\n") > 3):
            stop.wait(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(Interrupted, match="saved"):
        call("run")
    stop.set()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is heard
    assert 0 < hone.load_run(tmp_path / "run").step < 40
    went_on, straight = call("run"), call("straight")
    assert weights(went_on.folder / "step_40") == weights(straight.folder / "step_40")


@pytest.mark.slow
def test_an_evaluation_is_a_report(tmp_path: Path) -> None:
    report = hone.evaluate("hone/tiny-sft", rows(8), reward_funcs=importable, folder=tmp_path / "eval")
    assert report["prompts"] == 8
    assert 0 <= report["score"] <= 1
    assert json.loads((tmp_path / "eval" / "report.json").read_text())["score"] == report["score"]
    assert hone.evaluate("hone/tiny-sft", rows(8), reward_funcs=importable)["score"] == report["score"]
    hone.load_run(tmp_path / "eval").show(validation=True, best=1)


@pytest.mark.slow
def test_the_siblings(tmp_path: Path) -> None:
    pairs = [{"prompt": "a", "chosen": "b c", "rejected": "d"} for _ in range(8)]
    small = {"policy": SFT["policy"], "max_steps": 1, "eval_steps": 0}
    assert hone.dpo("hone/tiny-sft", pairs, folder=tmp_path / "dpo", **small).step == 1
    scorer = hone.rm("hone/tiny-sft", pairs, folder=tmp_path / "rm", **small)
    assert scorer.model().config.num_labels == 1
    online = {"max_steps": 1, "policy": TINY["policy"], "rewards": TINY["rewards"]}
    few = {key: value for key, value in TINY["grpo"].items() if key != "num_generations_per_prompt"}
    answered = [{**row, **lesson} for row, lesson in zip(rows(), lessons(16), strict=True)]
    ppo = {**few, "num_prompts_per_step": 16}
    assert hone.ppo("hone/tiny-sft", importable, rows(), folder=tmp_path / "ppo", ppo=ppo, **online).step == 1
    ranked = hone.online_dpo(
        "hone/tiny-sft",
        [importable],
        rows(),
        folder=tmp_path / "online_dpo",
        online_dpo=TINY["grpo"],
        beta=[0.3],
        **{**online, "policy": {"train_global_batch_size": 2}},
    )
    assert (ranked.step, ranked.metrics["beta"]) == (1, 0.3)
    taught = hone.distill(
        "hone/tiny",
        "hone/tiny-sft",
        answered,
        folder=tmp_path / "distill",
        distillation=TINY["grpo"],
        **online,
    )
    assert taught.step == 1


@pytest.mark.slow
def test_a_real_notebook(tmp_path: Path) -> None:
    """Cells of a Jupyter kernel: functions that only the notebook has, a run inside its event loop, twice."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    cells = [
        "import hone, asyncio\nworth = 2.0\nassert asyncio.get_running_loop().is_running()",
        "def right(completions, answer, **columns):\n"
        "    return [worth * (a in c[0]['content']) for c, a in zip(completions, answer)]",
        f"import sys; sys.path.append({str(Path(calls.__file__).parent)!r})\nfrom calls import TINY, rows\n"
        "run = hone.grpo('hone/tiny-sft', right, rows(), folder='run', max_steps=1, **TINY)\nrun",
        "worth = 3.0\nagain = hone.grpo('hone/tiny-sft', [right], rows(), folder='again', max_steps=1, **TINY)\n"
        "await asyncio.sleep(0)\nprint(round(again.metrics['reward'] / run.metrics['reward'], 6))",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = notebook.cells[2].outputs[-1]
    assert "<b>grpo: hone/tiny-sft</b>, step 1 of 1, finished" in shown["data"]["text/html"]
    assert notebook.cells[3].outputs[-1]["text"].strip().endswith("1.5")
    assert "# def right" in (tmp_path / "run" / "functions" / "right.py").read_text()
