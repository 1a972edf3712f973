"""Where a prompt ends and its completion begins: together they read as the row does, whatever the tokenizer."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from hone.data.chat import Encoder
from hone.data.formats import Format

TEXT = ["Tom has 7 apples. Answer: 12 (Answer:) ) What is the capital?\nParis."]


@pytest.fixture(scope="module", params=["first", "always", "normalizer"])
def sentencepiece(request):
    """As Llama 2 and Mistral in their newer and older files: a text gets a space in front, words begin with one."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    if request.param == "normalizer":
        steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        tokenizer.normalizer = normalizers.Sequence(steps)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=request.param, split=False)
    strip = decoders.Strip(" ", 1, 0)
    read = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip]
    tokenizer.decoder = decoders.Sequence(read)
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    specials = ["<unk>", "<s>", "</s>", *bytes_]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=specials, initial_alphabet=[*"▁:)."])
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [("Answer:", ")"), ("Answer:", " 12"), ("Answer: ", "12"), ("What\n", "Paris"), ("Tom ha", "s 7")],
)
def test_no_space_comes_between_them(sentencepiece, prompt, completion):
    row = {"prompt": prompt, "completion": completion}
    encoded = Encoder(sentencepiece).encode(Format(chat=False).supervised(row))
    assert sentencepiece.decode(encoded.tokens[1:-1]) == prompt + completion
    asked = sentencepiece(prompt)["input_ids"]
    assert encoded.tokens[: len(asked)] == asked
    assert encoded.mask == [False] * len(asked) + [True] * (len(encoded.tokens) - len(asked))


def test_what_a_tool_says_is_tokenised_as_in_a_whole_conversation(sentencepiece):
    between = Encoder(sentencepiece).tokens_of("\nParis", after="</s>")
    whole = sentencepiece("</s>\nParis", add_special_tokens=False)["input_ids"]
    assert whole == [sentencepiece.eos_token_id, *between]
