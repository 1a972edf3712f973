"""Rebuild every shipped byte of src/hone/embedded: tokenizer, chat template, configs, weights.

    python scripts/build_embedded.py              rebuild in place
    python scripts/build_embedded.py --check      rebuild aside and compare with what is shipped
    --no-weights                                  leave the weights alone (they take some minutes)

Text files must match to the byte. Weights match bit for bit on the same kind of machine (one thread); elsewhere
sums round differently, so what counts there is the accuracy, which --check prints.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config

from hone import embedded
from hone.embedded import task

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
VOCABULARY, CONTEXT = 512, 1024
# A word and a number keep the space before them; a number has up to three digits in one piece.
PIECES = r"[^\r\n\p{L}\p{N}]?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Fills the vocabulary up with what is frequent in other English text.
COMMON_WORDS = """
the of and to in a is that for it as was with be by on not he his but at are this have from or had an they
which one you were her all she there would their we him been has when who will more no if out so said what up
its about into than them can only other new some could time these two may then do first any my now such like
our over me even most made after also did many before must through back years where much your way well down
should because each just those people how too little good very make world still own see work long get here
between both life being under day same another know while last might us great year off come since against
right came take used three number sum total each first then so answer question problem step because left add
half twice price cost day week hour
system user assistant
"""
# Class and keys that transformers 4 and 5 both know, since other tools read these files too.
TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "pad_token": SPECIAL[0],
    "eos_token": SPECIAL[2],
    "additional_special_tokens": [SPECIAL[1]],
    "model_max_length": CONTEXT,
    "clean_up_tokenization_spaces": False,
}
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}
{{- message['content'] + '<|im_end|>' -}}
{%- endgeneration -%}
{%- else -%}
{{- message['content'] + '<|im_end|>' -}}
{%- endif -%}
{{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def build_tokenizer(pieces: str = PIECES) -> PreTrainedTokenizerFast:
    """Byte-level BPE on the word problems. Nothing is normalised: every text comes back byte by byte."""
    bpe = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(pieces), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(TAGS),
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(_corpus(), trainer)
    bpe.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in TAGS])
    named = {key: value for key, value in TOKENIZER_CONFIG.items() if key != "tokenizer_class"}
    return PreTrainedTokenizerFast(tokenizer_object=bpe, chat_template=CHAT_TEMPLATE, **named)


def _corpus() -> list[str]:
    """The word problems without the tags, which are tokens of their own, and a few common words."""
    texts = ["user\nassistant\n" * 10, *[COMMON_WORDS] * 2]
    for row in task.rows("sft"):
        text = row["prompt"][0]["content"] + "\n" + row["completion"][0]["content"]
        for tag in TAGS:
            text = text.replace(tag, "\n")
        texts.append(text)
    return texts


def build_config() -> Qwen3Config:
    """Qwen3 in small."""
    return Qwen3Config(
        architectures=["Qwen3ForCausalLM"],
        vocab_size=VOCABULARY,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=384,
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
    """Drop the line that names the transformers version, so that another version writes the same bytes."""
    lines = [line for line in path.read_text().splitlines() if '"transformers_version"' not in line]
    if lines[-2].endswith(","):
        lines[-2] = lines[-2][:-1]
    path.write_text("\n".join(lines) + "\n")


def check_texts(folder: Path) -> list[str]:
    """Names of the text files that differ from the shipped ones."""
    shipped = embedded.MODELS["hone/tiny"].parent
    found = {path.relative_to(folder) for path in folder.rglob("*") if path.suffix in (".json", ".jinja")}
    there = {
        path.relative_to(shipped) for name in ("tiny", "tiny-sft") for path in (shipped / name).glob("*.j*")
    }
    same = {path for path in found & there if (folder / path).read_bytes() == (shipped / path).read_bytes()}
    return sorted(map(str, (found | there) - same))


def main() -> int:
    """Rebuild in place, or compare; 1 when something shipped differs."""
    parser = argparse.ArgumentParser(description="Rebuild the embedded model")
    parser.add_argument("--check", action="store_true", help="compare with what is shipped, change nothing")
    parser.add_argument("--no-weights", action="store_true", help="text files only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside)
        build_texts(folder)
        if options.check:
            different = check_texts(folder)
            print("\n".join(f"differs: {name}" for name in different) or "text files: identical")
            return 1 if different else 0
        for name, shipped in embedded.MODELS.items():
            shutil.copytree(folder / name.removeprefix("hone/"), shipped, dirs_exist_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
