"""Runs of the `hone` command in processes of their own, tiny models on disk for them, and readers of what they leave.

Importing torch and transformers takes seconds, and these tests start many processes that they kill. So one server
process imports everything and forks for each run: the child is `hone.cli.main` with a fresh process's state. Runs
that must be the real thing use `command`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
GSM8K = REPOSITORY.parent / "shared" / "data" / "gsm8k"
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "COLUMNS": "200",
}


@dataclass
class Ended:
    """How a run ended. `code` is negative for a signal, as subprocess has it."""

    code: int
    out: str
    err: str
    seconds: float = 0.0


class Running:
    """A run in progress."""

    def __init__(self, server: Server, pid: int, out: Path, err: Path) -> None:
        self.server, self.pid, self._out, self._err = server, pid, out, err
        self.started = time.monotonic()
        self._code: int | None = None

    def send(self, number: int) -> None:
        """Signal it; nothing happens when it is over."""
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def poll(self, timeout: float = 0.0) -> bool:
        """Whether it is over, waiting for that up to `timeout` seconds."""
        if self._code is None:
            self._code = self.server.code(timeout)
        return self._code is not None

    def wait(self, timeout: float = 120.0) -> Ended:
        """Its end. Kills it and fails when it takes too long."""
        if not self.poll(timeout):
            self.send(signal.SIGKILL)
            self.poll(10)
            raise AssertionError(
                f"still running after {timeout} s:\n{self.output()}\n{self._err.read_text()}"
            )
        assert self._code is not None
        return Ended(self._code, self.output(), self._err.read_text(), time.monotonic() - self.started)

    def output(self) -> str:
        """What it has printed so far."""
        return self._out.read_text()

    def until(self, text: str, timeout: float = 60.0) -> None:
        """Wait until it has printed `text`."""
        give_up = time.monotonic() + timeout
        while text not in self.output():
            if self.poll(0.005):
                raise AssertionError(f"ended before {text!r}:\n{self.output()}\n{self._err.read_text()}")
            assert time.monotonic() < give_up, f"no {text!r} after {timeout} s:\n{self.output()}"


class Server:
    """The warm process that forks a child for each run, one at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **ENVIRONMENT},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout

    def start(self, argv: Sequence[str], cwd: Path, limits: dict[str, int] | None = None) -> Running:
        """Start `hone ARGV`, with its output in files below `cwd`."""
        cwd.mkdir(parents=True, exist_ok=True)
        out, err = cwd / ".stdout", cwd / ".stderr"
        request = {
            "argv": list(argv),
            "cwd": str(cwd),
            "out": str(out),
            "err": str(err),
            "limits": limits or {},
        }
        out.write_text("")
        err.write_text("")
        self._to.write(json.dumps(request).encode() + b"\n")
        self._to.flush()
        return Running(self, int(self._from.readline()), out, err)

    def code(self, timeout: float) -> int | None:
        if not select.select([self._from], [], [], timeout)[0]:
            return None
        return int(self._from.readline())


@functools.lru_cache(maxsize=1)
def server() -> Server:
    return Server()


def start(*argv: str, cwd: Path, limits: dict[str, int] | None = None) -> Running:
    """Start `hone ARGV` in `cwd`."""
    return server().start(argv, cwd, limits)


def hone(*argv: str, cwd: Path, limits: dict[str, int] | None = None, timeout: float = 120.0) -> Ended:
    """Run `hone ARGV` in `cwd` to its end."""
    return start(*argv, cwd=cwd, limits=limits).wait(timeout)


def command(*argv: str, cwd: Path, timeout: float = 120.0) -> Ended:
    """Run a command line for real: `python ARGV`."""
    started = time.monotonic()
    ended = subprocess.run(
        [sys.executable, *argv],
        cwd=cwd,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr, time.monotonic() - started)


def succeeded(ended: Ended) -> Ended:
    """The same run, if it ended well."""
    assert ended.code == 0, f"exit {ended.code}\n{ended.out}\n{ended.err}"
    return ended


# ---------------------------------------------------------------------------------------------- models and data

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(texts: Sequence[str], *, size: int = 320, template: str | None = CHATML) -> Any:
    """A byte-level BPE tokenizer trained on `texts`, with a ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = template
    return fast


def make_model(
    folder: Path, tokenizer: Any, kind: str = "llama", *, hidden: int = 32, seed: int = 0, **overrides: Any
) -> Path:
    """A Hugging Face folder with random weights and the tokenizer: two layers, a few ten thousand numbers."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

    cls: Any = {"llama": LlamaConfig, "qwen3": Qwen3Config}[kind]
    config = cls(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": hidden // 4,
            "max_position_embeddings": 1024,
            "initializer_range": 0.05,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": kind == "qwen3",
            **overrides,
        }
    )
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def sums(count: int, *, seed: int = 0) -> list[dict[str, str]]:
    """Rows that ask for a sum: `prompt`, `completion`, `answer`."""
    generator = random.Random(seed)
    rows = []
    for _ in range(count):
        a, b = generator.randrange(10, 99), generator.randrange(10, 99)
        rows.append(
            {
                "prompt": f"What is {a} plus {b}?",
                "completion": f" It is <answer>{a + b}</answer>",
                "answer": str(a + b),
            }
        )
    return rows


def pairs(count: int, *, seed: int = 0) -> list[dict[str, str]]:
    """Rows that ask for a sum, with a right and a wrong answer: `prompt`, `chosen`, `rejected`."""
    generator = random.Random(seed)
    return [
        {
            "prompt": row["prompt"],
            "chosen": row["completion"],
            "rejected": f" It is <answer>{int(row['answer']) + generator.randrange(1, 9)}</answer>",
        }
        for row in sums(count, seed=seed)
    ]


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """A JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


REWARDS = '''
def letters(prompts, completions, **columns):
    """Share of vowels: differs between completions of a random model, unlike a right answer."""
    return [sum(c in "aeiou" for c in text) / (1 + len(text)) for text in completions]


def some_vowels(prompts, completions, **columns):
    """Right or wrong: of a random model's groups, some are all right, some all wrong."""
    return [float(sum(c in "aeiou" for c in text) > 1) for text in completions]
'''


@functools.lru_cache(maxsize=1)
def _shared_texts() -> tuple[str, ...]:
    return tuple(row["prompt"] + row["completion"] for row in sums(400, seed=7))


def workplace(folder: Path, kind: str = "llama", **overrides: Any) -> Path:
    """A folder with `model/`, another one of the same tokenizer (`teacher/`), rows (`train.jsonl`, `validation.jsonl`),
    pairs (`pairs.jsonl`, `held_out_pairs.jsonl`), and `rewards.py`."""
    folder.mkdir(parents=True, exist_ok=True)
    make_model(folder / "model", make_tokenizer(_shared_texts()), kind, **overrides)
    make_model(folder / "teacher", make_tokenizer(_shared_texts()), kind, seed=1, **overrides)
    write_rows(folder / "train.jsonl", sums(64, seed=1))
    write_rows(folder / "validation.jsonl", sums(8, seed=2))
    write_rows(folder / "pairs.jsonl", pairs(64, seed=1))
    write_rows(folder / "held_out_pairs.jsonl", pairs(8, seed=2))
    (folder / "rewards.py").write_text(REWARDS)
    return folder


MODEL = (
    "policy.precision=float32",
    "policy.max_total_sequence_length=64",
    "policy.optimizer.kwargs.lr=2e-3",
    "policy.model_name=model",
    "cluster.gpus_per_node=0",
)
COMMON = (*MODEL, "data.train.dataset_name=train.jsonl", "data.validation.dataset_name=validation.jsonl")
ON_PAIRS = (
    *MODEL,
    "data.train.dataset_name=pairs.jsonl",
    "data.validation.dataset_name=held_out_pairs.jsonl",
    "policy.train_global_batch_size=4",
    "policy.train_micro_batch_size=2",
)
DPO = ("dpo", *ON_PAIRS, "dpo.max_num_epochs=null")
RM = ("rm", *ON_PAIRS, "rm.max_num_epochs=null")
SFT = (
    "sft",
    *COMMON,
    "policy.train_global_batch_size=4",
    "policy.train_micro_batch_size=2",
    "sft.max_num_epochs=null",
)
GRPO = (
    "grpo",
    *COMMON,
    "policy.train_global_batch_size=8",
    "policy.train_micro_batch_size=8",
    "policy.generation.max_new_tokens=12",
    "grpo.num_prompts_per_step=2",
    "grpo.num_generations_per_prompt=4",
    "grpo.max_num_epochs=null",
    "rewards.functions=[{path: rewards.py:letters, name: letters}, {name: length, weight: 0.1, kwargs: {target: 6}}]",
    "rewards.num_workers=1",
    "grpo.val_at_start=false",
)
ONLINE_DPO = (
    "online-dpo",
    *COMMON,
    "policy.train_global_batch_size=2",
    "policy.train_micro_batch_size=1",
    "policy.generation.max_new_tokens=12",
    "online_dpo.num_prompts_per_step=4",
    "online_dpo.num_generations_per_prompt=3",
    "online_dpo.max_num_epochs=null",
    "rewards.functions=[{path: rewards.py:letters, name: letters}]",
    "rewards.num_workers=1",
    "online_dpo.val_at_start=false",
)
DISTILL = (
    "distill",
    *COMMON,
    "teacher.model_name=teacher",
    "policy.train_global_batch_size=4",
    "policy.train_micro_batch_size=4",
    "policy.generation.max_new_tokens=12",
    "distillation.num_prompts_per_step=4",
    "distillation.num_generations_per_prompt=2",
    "distillation.topk_logits_k=8",
    "distillation.max_num_epochs=null",
    "rewards.functions=[{path: rewards.py:letters, name: letters}]",
    "rewards.num_workers=1",
)
PPO = (
    "ppo",
    *COMMON,
    "policy.train_global_batch_size=4",
    "policy.train_micro_batch_size=4",
    "policy.generation.max_new_tokens=12",
    "value.optimizer.kwargs.lr=2e-3",
    "ppo.num_prompts_per_step=4",
    "ppo.num_generations_per_prompt=2",
    "ppo.ppo_epochs=2",
    "ppo.max_num_epochs=null",
    "rewards.functions=[{path: rewards.py:letters, name: letters}, {name: length, weight: 0.1, kwargs: {target: 6}}]",
    "rewards.num_workers=1",
)


# ------------------------------------------------------------------------------------------- what a run leaves


def steps_of(run: Path) -> list[int]:
    """Steps that have a checkpoint."""
    return sorted(int(path.name.removeprefix("step_")) for path in run.glob("step_*"))


def tensors(
    run: Path, part: str = "weights", step: int | None = None, model: str = "policy"
) -> dict[str, Any]:
    """Every tensor and number of the DCP files below `MODEL/PART`, read without a model."""
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    step = steps_of(run)[-1] if step is None else step
    if not (run / f"step_{step}" / model / part / ".metadata").exists():
        return {}  # an optimizer without any state
    state: dict[str, Any] = {}
    reader = FileSystemReader(run / f"step_{step}" / model / part)
    _load_state_dict(state, reader, planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    return dict(_flatten(state))


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flatten(inner, f"{prefix}{key}.")
    else:
        yield prefix.removesuffix("."), value


TIMES = ("seconds", "tokens_per_s", "idle_share", "reward_workers", "gpu", "env_seconds")


OWN_METRICS = ("held_out",)
"""What reward functions of these tests report by `log_metric`."""


def metric_rows(run: Path) -> list[dict[str, str]]:
    """metrics.csv without what the clock decides. Each metric has an entry in the catalogue, or is a user's own."""
    from hone.tracking.catalogue import meaning
    from hone.tracking.metrics_csv import read_table

    columns, rows = read_table(run / "metrics.csv")
    unknown = [
        name for name in columns[1:] if meaning(name) is None and name.removeprefix("val_") not in OWN_METRICS
    ]
    assert not unknown, f"metrics without an entry in hone.tracking.catalogue: {unknown}"
    return [{k: v for k, v in sorted(row.items()) if not any(t in k for t in TIMES)} for row in rows]


def lines_of(folder: Path) -> dict[str, str]:
    """The text of every file in a folder."""
    return {path.name: path.read_text() for path in sorted(folder.glob("*"))}


@dataclass
class Result:
    """All of a finished run that must not depend on how often it was killed."""

    weights: dict[str, Any]
    optimizer: dict[str, Any]
    small: Any
    state: Any
    metrics: list[dict[str, str]]
    rollouts: dict[str, str]
    validation: dict[str, str]
    steps: list[int] = field(default_factory=list)
    value: Any = None
    """Weights, optimizer and schedule of the value model, where there is one."""


def result(run: Path) -> Result:
    """Read a finished run."""
    import torch

    last = run / f"step_{steps_of(run)[-1]}"
    return Result(
        weights=tensors(run),
        optimizer=tensors(run, "optimizer"),
        small=torch.load(last / "policy" / "optimizer" / "schedule.pt", weights_only=True),
        state=torch.load(last / "state.pt", weights_only=True),
        metrics=metric_rows(run),
        rollouts=lines_of(run / "rollouts"),
        validation=lines_of(run / "validation"),
        steps=steps_of(run),
        value=_value_of(run, last) if (last / "value").is_dir() else None,
    )


def _value_of(run: Path, last: Path) -> Any:
    import torch

    schedule = torch.load(last / "value" / "optimizer" / "schedule.pt", weights_only=True)
    return [tensors(run, part, model="value") for part in ("weights", "optimizer")], schedule


def same(one: Any, other: Any, where: str = "") -> None:
    """Fail at the first difference, to the bit."""
    import torch

    if isinstance(one, Result):
        for name in one.__dataclass_fields__:
            same(getattr(one, name), getattr(other, name), name)
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), (where, set(one) ^ set(other))
        for key in one:
            same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), (where, len(one), len(other))
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            same(a, b, f"{where}[{index}]")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(
            one.view(-1).contiguous().view(torch.uint8), other.view(-1).contiguous().view(torch.uint8)
        ), where
    else:
        assert one == other, (where, one, other)


# ------------------------------------------------------------------------------------------------- the server


def _serve() -> None:
    """Import everything, then fork for each line of stdin; answer with the pid, and with the exit code at the end."""
    import transformers.models.llama.modeling_llama
    import transformers.models.qwen3.modeling_qwen3  # noqa: F401

    import hone.cli.plan
    import hone.evaluation
    import hone.export
    import hone.training.online
    import hone.training.supervised  # noqa: F401

    channel = os.dup(1)
    for line in iter(sys.stdin.buffer.readline, b""):
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.close(channel)
            _child(request)
        os.write(channel, f"{pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        os.write(channel, f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _child(request: dict[str, Any]) -> None:
    code = 70
    try:
        os.chdir(request["cwd"])
        sys.path.insert(0, request["cwd"])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for name, number in (("out", 1), ("err", 2)):
            os.dup2(os.open(request[name], os.O_WRONLY | os.O_APPEND), number)
        for name, value in request["limits"].items():
            import resource

            resource.setrlimit(getattr(resource, name), (value, value))
        from hone.cli import main

        code = main(request["argv"])
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
