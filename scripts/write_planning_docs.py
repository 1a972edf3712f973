"""Write the tables of docs/planning.md from the planner; `--check` fails when they are not what it says."""

from __future__ import annotations

import sys
from pathlib import Path

from transformers import LlamaConfig

from hone.config.schema.sft import SFTConfig
from hone.model.model_size import model_size_of
from hone.planning.hardware import GIB, Hardware, hardware_named
from hone.planning.planner import Choice, choose, more_devices

TARGET = Path(__file__).resolve().parents[1] / "docs" / "planning.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->"


def llama(
    vocabulary: int, hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int
) -> LlamaConfig:
    """A config.json of the Llama family, from its published sizes."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=4096,
    )


MODELS = {
    "7B": llama(32000, 4096, 11008, 32, 32, 32),
    "13B": llama(32000, 5120, 13824, 40, 40, 40),
    "70B": llama(32000, 8192, 28672, 80, 64, 8),
    "405B": llama(128256, 16384, 53248, 126, 128, 8),
}
"""Llama 2 (arXiv 2307.09288) and Llama 3.1 (arXiv 2407.21783)."""

OFTEN_SAID = {
    "7B": ("A100-80G", 1, 1),
    "13B": ("A100-80G", 1, 2),
    "70B": ("A100-80G", 1, 8),
    "405B": ("H100-80G", 4, 8),
}
"""Kind, nodes and GPUs of each that guides to fine-tuning commonly name as the least for a model of this size."""


def config(*, lora: bool = False) -> SFTConfig:
    """SFT with sequences of 2,048 tokens; all that can be chosen is left open."""
    return SFTConfig(policy={"max_total_sequence_length": 2048, "lora": {"enabled": lora}})


def cell(choice: Choice | None) -> str:
    """A choice in one cell of a table."""
    if choice is None or choice.fits is False:
        return "no"
    held = choice.taken.memory
    host = f", host {held.host * choice.hardware.per_node / GIB:,.0f} GiB a node" if held.host else ""
    return f"{held.peak / GIB:.0f} GiB{host}: {choice.taken}"


def row(name: str) -> str:
    """One model on the devices that are often named for it."""
    kind, nodes, per_node = OFTEN_SAID[name]
    hardware: Hardware = hardware_named(kind, nodes=nodes, per_node=per_node)
    shape = model_size_of(MODELS[name])
    full, lora = choose(shape, config(), hardware), choose(shape, config(lora=True), hardware)
    enough = full if not full.taken.memory.host else more_devices(shape, config(), hardware, offload=False)
    assert enough is not None
    states = 16 * shape.parameters / GIB
    cells = [
        f"{name} ({shape.parameters / 1e9:.1f}B)",
        str(hardware),
        f"{states:,.0f} GiB, {states / hardware.count:,.0f} each",
        cell(full),
        cell(lora),
        f"{enough.hardware}: {cell(enough)}",
    ]
    return f"| {' | '.join(cells)} |"


def table() -> str:
    """All models."""
    names = ("model", "often named", "full: 16 bytes a parameter", "full, on these", "LoRA, on these")
    head = f"| {' | '.join(names)} | full, without offload |"
    return "\n".join([head, "|---|---|---|---|---|---|", *map(row, MODELS)]) + "\n"


def text() -> str:
    """The page with its table made anew."""
    before, _, rest = TARGET.read_text().partition(BEGIN)
    return f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        sys.exit(0 if TARGET.read_text() == text() else f"{TARGET} is out of date")
    TARGET.write_text(text())
