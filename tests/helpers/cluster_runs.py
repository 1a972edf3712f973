"""Runs of the real command on a Ray cluster: starting, watching and comparing them, and machines that come and go."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from processes import ENVIRONMENT, metric_rows, same, steps_of, tensors

from hone.checkpoint.safe_reader import read_state

SEED = int(os.environ.get("HONE_KILL_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
RANDOM = random.Random(SEED)
STEPS = 40
SETTINGS = (
    "policy.precision=float32",
    "policy.train_micro_batch_size=4",
    "checkpointing.save_period=4",
    "checkpointing.keep_top_k=null",
    "logger.tensorboard_enabled=false",
    "cluster.cpu_workers_per_node=2",
)
OF_KIND = {
    "sft": (
        "policy.model_name=hone/tiny",
        "policy.train_global_batch_size=8",
        f"sft.max_num_steps={STEPS}",
        "sft.val_period=0",
    ),
    "grpo": (
        "policy.model_name=hone/tiny-sft",
        "grpo.num_prompts_per_step=2",
        "grpo.num_generations_per_prompt=4",
        "policy.train_global_batch_size=8",
        "policy.generation.max_new_tokens=16",
        "loss_fn.reference_policy_kl_penalty=0.05",
        f"grpo.max_num_steps={STEPS}",
        "grpo.val_period=0",
    ),
    # Losses with something of their own to keep: BCO's running mean, KTO's answers to other prompts, AOT's ranks.
    "dpo": (
        "policy.model_name=hone/tiny-sft",
        "policy.train_global_batch_size=4",
        "dpo.preference_loss={sigmoid: 1.0, bco_pair: 0.5, kto: 0.3, aot_unpaired: 0.2}",
        "dpo.val_period=0",
    ),
    "rm": ("policy.model_name=hone/tiny-sft", "policy.train_global_batch_size=4", "rm.val_period=0"),
    # Killed before and after the policy begins to be trained.
    "ppo": (
        "policy.model_name=hone/tiny-sft",
        "ppo.num_prompts_per_step=8",
        "policy.train_global_batch_size=8",
        "value.train_global_batch_size=4",
        "value.train_micro_batch_size=4",
        "policy.generation.max_new_tokens=16",
        "loss_fn.reference_policy_kl_penalty=0.05",
        "ppo.policy_training_start_step=8",
        "ppo.val_period=0",
    ),
    # Own answers and given ones take turns.
    "distill": (
        "policy.model_name=hone/tiny",
        "distillation.num_prompts_per_step=8",
        "distillation.on_policy_fraction=0.5",
        "policy.train_global_batch_size=8",
        "policy.generation.max_new_tokens=16",
        "distillation.val_period=0",
    ),
}
MODELS = {"ppo": ("policy", "value")}
"""What a run trains, where that is more than the policy."""


def start(run: Path, *more: str, kind: str = "sft") -> subprocess.Popen[str]:
    """The real command, in a process group of its own."""
    run.parent.mkdir(parents=True, exist_ok=True)
    output = open(run.parent / f"{run.name}.out", "a")  # noqa: SIM115  the process has it
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "hone",
            kind,
            *SETTINGS,
            *OF_KIND[kind],
            *more,
            f"checkpointing.checkpoint_dir={run}",
        ],
        env={**os.environ, **ENVIRONMENT},
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        cwd=run.parent,
    )


def output_of(run: Path) -> str:
    return (run.parent / f"{run.name}.out").read_text()


def finish(process: subprocess.Popen[str], run: Path, code: int = 0, seconds: float = 480) -> None:
    assert process.wait(seconds) == code, output_of(run)


def processes_of(driver: subprocess.Popen[str], name: str) -> list[psutil.Process]:
    """Those that a run started, by a part of their command line."""
    found = []
    for process in psutil.Process(driver.pid).children(recursive=True):
        try:
            if name in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def until_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Wait until a run has recorded a step."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if any(int(row["step"]) >= step for row in metric_rows(run)):
                return
        except (OSError, KeyError, ValueError, IndexError):
            pass
        time.sleep(0.02)
    raise AssertionError(output_of(run))


def same_end(run: Path, reference: Path, steps: int = STEPS, models: Sequence[str] = ("policy",)) -> None:
    """Weights, optimizer and losses, to the bit."""
    assert steps_of(run)[-1] == steps_of(reference)[-1] == steps
    for model, part in itertools.product(models, ("weights", "optimizer")):
        ended = tensors(reference, part, model=model)
        assert ended, f"{model} has no {part}"
        same(tensors(run, part, model=model), ended, f"{model}.{part}")
    named = ("loss", "reward", "grad_norm", "learning_rate", "accuracy", "kl")
    mine, others = (
        [
            {c: v for c, v in row.items() if c == "step" or any(n in c for n in named)}
            for row in metric_rows(folder)
        ]
        for folder in (run, reference)
    )
    assert mine == others


def state_of(run: Path) -> dict[str, Any]:
    """Where the run's own process ended: its place in the data, its random generators."""
    return read_state(run / f"step_{STEPS}" / "state.pt")


TWO_MACHINES = ("cluster.cpu_workers_per_node=1", "cluster.num_nodes=2", "cluster.node_wait_s=3")


class Machines:
    """A Ray cluster whose machines come and go. Lives in a process of its own: Ray allows one cluster in each."""

    CODE = """
import os, sys
os.environ["RAY_AUTH_MODE"] = "disabled"
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": CPUS, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=CPUS)]
print(cluster.address, flush=True)
for line in sys.stdin:
    if line.strip() == "lose":
        cluster.remove_node(nodes.pop(), allow_graceful=False)
    else:
        nodes.append(cluster.add_node(num_cpus=CPUS))
    print("done", flush=True)
cluster.shutdown()
"""

    def __init__(self, *before: str, cpus: int = 1, **environment: str) -> None:
        """`before` is put before the command that starts it; `environment` is added to what its processes have; each
        machine has so many `cpus`."""
        self.process = subprocess.Popen(
            [*before, sys.executable, "-c", f"CPUS = {cpus}{self.CODE}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **ENVIRONMENT, **environment},
        )
        self.address = self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def __call__(self, what: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        assert self._line() == "done"

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)
