"""The tokenizer of the embedded models: byte-level BPE trained on the word problems, with a ChatML template."""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hone.embedded import task

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
VOCABULARY, CONTEXT = 512, 1024
# A word and a number keep the space before them; a number has up to three digits in one piece.
PIECES = r"[^\r\n\p{L}\p{N}]?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Fills the vocabulary up with what is frequent in other English text.
COMMON_WORDS = """
the of and to in a is that for it as was with be by on not he his but at are this have from or had an they
which one you were her all she there would their we him been has when who will more no if out so said what
up its about into than them can only other new some could time these two may then do first any my now such
like our over me even most made after also did many before must through back years where much your way well
down should because each just those people how too little good very make world still own see work long get
here
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
