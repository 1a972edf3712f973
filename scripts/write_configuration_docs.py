"""Write docs/configuration.md from the schema; `--check` fails when it is not what the schema says."""

from __future__ import annotations

import sys
from pathlib import Path

from hone.config.reference_table import markdown_table
from hone.config.schema import ROOTS

TARGET = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"
INTRODUCTION = """# Every setting

`hone config COMMAND [KEY]` prints the same. This page is written from the schema by `python
scripts/write_configuration_docs.py`.

Settings come from `--config FILE` and from `key=value` after it. Sections and keys have NeMo RL's names. Keys that
NeMo RL repeats for each back end, and the spellings of NeMo's tutorials, are accepted too; the run says how it read
them. The defaults are for a model of your own; the embedded models `hone/tiny` and `hone/tiny-sft` come with a
recipe (`src/hone/embedded/recipes/`).

Short names work everywhere, in files, on the command line and in Python: `lr`, `epochs`, `batch_size`, `max_steps`,
`model`, `output_dir`, and TRL's (`learning_rate`, `num_generations`, `beta`). `data.train=rows.jsonl` names a
dataset, and `rewards.functions=[math,my.py:fn]` functions. `source <(hone completion bash)` completes commands,
keys and values (also for zsh and fish). `examples/aliases.sh` has short commands such as `nemo-sft-1b`.

**No setting is silently without effect.** A setting that the others make irrelevant (`logger.wandb.name` without
`logger.wandb_enabled`), and one that only NeMo RL has, is either ignored with a line that says why (at the start,
in `hone plan` and in `run.json`) or refused. For example, with
`policy.generation.backend=vllm` where vLLM is not installed, a line says that the built-in generator samples
instead.

**Defaults follow what you give.** A value of yours takes precedence over those of a recipe, a preset and the
schema, and they adapt to it: `hone sft policy.train_global_batch_size=8` has micro-batches of 8, whatever the
recipe says, and the run says so. Only two values that you give can contradict each other; the error names both. A
setting that matters only for one choice selects this choice (`policy.lora.dim=16` LoRA, `dpo.simpo_gamma=1` SimPO),
unless you give the choice too.

`NEMO_LOG_LEVEL=DEBUG` prints the resolved settings, every step's metrics and the libraries' logs.

Folders and files are local paths; an address such as `s3://…` is refused by name. Data may be elsewhere:
`data.*.dataset_name` takes what fsspec reads (`s3://`, `gs://`, `hf://` …, with its package installed).
"""


def text() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for kind in ROOTS:
        parts.append(f"## `hone {kind}`\n\n{markdown_table(kind).strip()}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        sys.exit(0 if TARGET.is_file() and TARGET.read_text() == text() else f"{TARGET} is out of date")
    TARGET.write_text(text())
