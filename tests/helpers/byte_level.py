"""A tiny byte-level tokenizer. Not a test itself."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

TEXT = [
    "Tom has 7 apples. He buys 5 more and gives 3 to Mia. How many apples does Tom have?",
    "What is the capital of France? The capital of France is Paris. Thanks! You are welcome.",
    "the answer is 12, because 3 + 9 = 12. <think> let me think </think> user assistant system tool",
]


def byte_level(specials: list[str], *, bos: str | None, trim_offsets: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=420, special_tokens=specials, initial_alphabet=alphabet)
    )
    steps = [processors.ByteLevel(trim_offsets=trim_offsets)]
    if bos:
        number = tokenizer.token_to_id(bos)
        steps.append(processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, number)]))
    tokenizer.post_processor = processors.Sequence(steps)
    return tokenizer
