"""Rebuild every shipped byte of src/hone/embedded: tokenizer, chat template, configs, weights.

    python scripts/build_embedded.py              rebuild in place
    python scripts/build_embedded.py --check      rebuild aside and compare with what is shipped
    --no-weights                                  leave the weights alone (they take two minutes)

Text files must match to the byte. Weights match bit for bit on the same kind of machine and torch; elsewhere
sums round differently, so what counts there is the accuracy, which is printed for both.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from embedded_tokenizer import CONTEXT, SPECIAL, TOKENIZER_CONFIG, VOCABULARY, build_tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from hone import embedded
from hone.embedded import task

SEED, STEPS, BATCH, LR, WARM_UP = 0, 1000, 16, 1e-3, 20  # those of recipes/sft.yaml


def build_config() -> Qwen3Config:
    """Qwen3 in small."""
    return Qwen3Config(
        architectures=["Qwen3ForCausalLM"],
        vocab_size=VOCABULARY,
        hidden_size=192,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=512,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=SPECIAL.index("<|im_end|>"),
        pad_token_id=SPECIAL.index("<|endoftext|>"),
        dtype="float32",
    )


def build_texts(folder: Path) -> None:
    """Tokenizer, chat template and configs of both models."""
    tokenizer, config = build_tokenizer(), build_config()
    generation = GenerationConfig(eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id)
    for name in ("tiny", "tiny-sft"):
        tokenizer.save_pretrained(folder / name)
        config.save_pretrained(folder / name)
        generation.save_pretrained(folder / name)
        (folder / name / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG, indent=2) + "\n")
        for file in ("config.json", "generation_config.json"):
            _without_version(folder / name / file)


def _without_version(path: Path) -> None:
    """Drop the version of transformers, so that another version writes the same bytes."""
    values = json.loads(path.read_text())
    del values["transformers_version"]
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def build_weights(folder: Path) -> None:
    """SFT from random weights, as recipes/sft.yaml has it, in plain torch; stored as float16."""
    tokenizer = build_tokenizer()
    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_config(build_config(), dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.01)
    rows = task.rows("sft", STEPS * BATCH)
    for step in range(STEPS):
        share = min((step + 1) / WARM_UP, (STEPS - step) / (STEPS - WARM_UP))
        optimizer.param_groups[0]["lr"] = LR * share
        tokens_ST, targets_ST = _batch(tokenizer, rows[step * BATCH : (step + 1) * BATCH])
        model(input_ids=tokens_ST, labels=targets_ST).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.half().save_pretrained(folder / "tiny-sft")


def _batch(
    tokenizer: PreTrainedTokenizerFast, rows: list[dict[str, Any]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded tokens and labels [S, T]; only what the assistant says is a label, the others are -100."""
    encoded = tokenizer.apply_chat_template(
        [row["prompt"] + row["completion"] for row in rows],
        return_dict=True,
        return_assistant_tokens_mask=True,
        return_tensors="pt",
        padding=True,
    )
    tokens, mask = encoded["input_ids"], torch.as_tensor(encoded["assistant_masks"]).bool()
    return tokens, tokens.masked_fill(~mask, -100)


def accuracy(folder: Path, limit: int = 512) -> float:
    """Greedy accuracy on the first `limit` test problems."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder)
    rows = task.rows("test", limit)
    prompts = [row["prompt"] for row in rows]
    inputs = tokenizer.apply_chat_template(
        prompts, add_generation_prompt=True, return_dict=True, return_tensors="pt", padding=True
    )
    tokens = model.generate(**inputs, max_new_tokens=48, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    right = [
        task.parse_answer(text) == row["answer"]
        for text, row in zip(tokenizer.batch_decode(tokens), rows, strict=True)
    ]
    return sum(right) / len(right)


def check(folder: Path, weights: bool) -> int:
    """Say what differs from the shipped files; 1 when a text file does or the accuracy is another."""
    shipped = embedded.MODELS["hone/tiny"].parent
    names = {path.relative_to(folder) for path in folder.rglob("*.j*")}
    names |= {path.relative_to(shipped) for model in embedded.MODELS.values() for path in model.glob("*.j*")}
    different = [name for name in sorted(names) if _bytes(folder / name) != _bytes(shipped / name)]
    print("\n".join(f"differs: {name}" for name in different) or "text files: identical")
    if not weights:
        return bool(different)
    name = "tiny-sft/model.safetensors"
    same = _bytes(folder / name) == _bytes(shipped / name)
    before, after = accuracy(shipped / "tiny-sft"), accuracy(folder / "tiny-sft")
    print(f"weights: {'identical' if same else 'differ'}; accuracy shipped {before:.1%}, rebuilt {after:.1%}")
    return bool(different) or abs(before - after) > 0.15


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def main() -> int:
    """Rebuild in place, or compare; 1 when what is shipped differs."""
    parser = argparse.ArgumentParser(description="Rebuild the embedded model")
    parser.add_argument("--check", action="store_true", help="compare with what is shipped, change nothing")
    parser.add_argument("--no-weights", action="store_true", help="text files only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside)
        if not options.no_weights:
            build_weights(folder)
        build_texts(folder)
        if options.check:
            return check(folder, weights=not options.no_weights)
        for name, shipped in embedded.MODELS.items():
            built = folder / name.removeprefix("hone/")
            shutil.copytree(built, shipped, copy_function=shutil.copyfile, dirs_exist_ok=True)
        if not options.no_weights:
            print(f"hone/tiny-sft: greedy accuracy {accuracy(folder / 'tiny-sft'):.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
