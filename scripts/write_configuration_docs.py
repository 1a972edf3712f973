"""Write docs/configuration.md from the schema; `--check` fails when it is not what the schema says."""

from __future__ import annotations

import sys
from pathlib import Path

from hone.config.reference_table import markdown_table
from hone.config.schema import ROOTS

TARGET = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"
INTRODUCTION = """# Every setting

Written by `python scripts/write_configuration_docs.py` from the schema; `hone config KIND [KEY]` prints the same.
Settings come from `--config FILE` and `key=value` after it. Section and key names are NeMo RL's; its repeats per
backend and the spellings of NeMo's tutorials are accepted, too, and a run says what it read them as. The defaults are
for a model of your own: `hone/tiny` and `hone/tiny-sft` bring a recipe (`src/hone/embedded/recipes/`).

Short names work everywhere, in files, on the command line and in Python: `lr`, `epochs`, `batch_size`, `max_steps`,
`model`, `output_dir`, and TRL's (`learning_rate`, `num_generations`, `beta`). `data.train=rows.jsonl` names a dataset,
and `rewards.functions=[math,my.py:fn]` functions. `source <(hone completion bash)` completes commands, keys and values
(zsh and fish, too); `examples/aliases.sh` has short commands such as `nemo-sft-1b`.

**No setting is without effect in silence.** What the other settings leave unread (`logger.wandb.name` without
`logger.wandb_enabled`), and what only upstream has, is ignored with a line that says why, at the start, in `hone plan`
and in `run.json`; or it is refused. So it is with `policy.generation.backend=vllm`, wherever it was written: this
version has no vLLM, the built-in generator samples from the same distribution, and a line says so.

**What is not given follows what is.** A value of a recipe, a preset or a default never stands against one that you
give: `hone sft policy.train_global_batch_size=8` has micro-batches of 8, whatever the recipe says, and the run says so.
Only two given values can contradict each other, and the error names both. A setting that one choice alone reads
asks for that choice (`policy.lora.dim=16` for LoRA, `dpo.simpo_gamma=1` for SimPO) unless the choice is given, too.

`NEMO_LOG_LEVEL=DEBUG` prints the resolved settings, every step's metrics and what the libraries log.

Folders and files are paths of this machine; an address such as `s3://…` is refused by name. Data may lie elsewhere:
`data.*.dataset_name` takes what fsspec reads (`s3://`, `gs://`, `hf://` …, with the package for it installed).
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
