"""Scores texts with a reward model: Hone's, or any `AutoModelForSequenceClassification` with one label.

The model's own forward is called on padded batches, so encoders and decoders score as in transformers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch

from hone.data.chat import Encoder
from hone.data.formats import Example
from hone.errors import ConfigError, ModelError
from hone.model.loading import context_length, load_model, load_tokenizer, resolve
from hone.types import Message

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SMALL = 10_000_000
"""Parameters below which one thread is as fast as several."""
Content = str | Sequence[Message]


class RewardModel:
    """Holds a reward model and its tokenizer.

    `template`: the chat template for conversations, as Jinja text or the path of its file; None: the tokenizer's own.
    `trust_remote_code`: run code from the model's folder. Raises ModelError for a model that is not a reward model,
    before any weight is loaded.
    """

    def __init__(
        self,
        model: str,
        *,
        template: str | None = None,
        batch_size: int = 16,
        max_length: int | None = None,
        precision: str = "float32",
        device: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"reward_model: batch_size={batch_size} must be at least 1")
        if precision not in PRECISIONS:
            raise ConfigError(f"reward_model: precision={precision}: choose one of {', '.join(PRECISIONS)}")
        self.name, self.batch_size = model, batch_size
        trust: dict[str, Any] = {"trust_remote_code": trust_remote_code}
        loaded = load_model(resolve(model), scalar=True, fresh_head=False, **trust)
        self.tokenizer = load_tokenizer(model, chat_template=template or "default", **trust)
        self.encoder = Encoder(self.tokenizer)
        size = sum(weight.numel() for weight in loaded.parameters())
        if "OMP_NUM_THREADS" not in os.environ or size >= SMALL:
            torch.set_num_threads(1 if size < SMALL else os.cpu_count() or 1)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self.model: Any = loaded.to(device=device, dtype=PRECISIONS[precision]).eval()  # type: ignore[call-arg]
        except (RuntimeError, AssertionError) as error:
            raise ModelError(f"reward model {model} cannot be put on device {device}: {error}") from error
        self.pad = self.tokenizer.pad_token_id
        self.model.config.get_text_config().pad_token_id = self.pad
        limit = context_length(self.model)
        self.max_length = min(max_length or limit or 1 << 30, limit or 1 << 30)

    def score(self, prompts: Sequence[Content], completions: Sequence[Content]) -> list[float]:
        """The score of each completion with its prompt, each text or messages. Raises ValueError for one that exceeds
        the model's context."""
        pairs = list(zip(prompts, completions, strict=True))
        # The tokenizer of an encoder joins the two texts itself.
        if self.tokenizer.cls_token_id is not None and not self.encoder.chat:
            texts = [(_text(prompt), _text(completion)) for prompt, completion in pairs]
            return self.score_tokens(self.tokenizer(texts, verbose=False)["input_ids"] if texts else [])
        rendered = [self.encoder.render(_example(*pair)) for pair in pairs]
        return self.score_tokens([encoded.tokens for encoded in self.encoder.tokenize(rendered)])

    def score_tokens(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """The score of each token sequence, in order; sequences of similar length share a batch."""
        longest = max(map(len, rows), default=0)
        if longest > self.max_length:
            raise ValueError(
                f"a text of {longest} tokens exceeds the {self.max_length} of reward model {self.name}"
            )
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        scores = [0.0] * len(rows)
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            for index, value in zip(chosen, self._forward([rows[i] for i in chosen]), strict=True):
                scores[index] = value
        return scores

    @torch.no_grad()
    def _forward(self, rows: Sequence[Sequence[int]]) -> list[float]:
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), self.pad)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row)
            mask[number, : len(row)] = 1
        device = self.model.device
        logits = self.model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
        return logits[:, 0].float().tolist()


def _text(content: Content) -> str:
    return content if isinstance(content, str) else "\n".join(str(message["content"]) for message in content)


def _example(prompt: Content, completion: Content) -> Example:
    """A prompt and its completion as one text, or as one conversation."""
    if isinstance(prompt, str) and isinstance(completion, str):
        return Example(prompt=prompt, completion=completion)
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    answer = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
    return Example(messages=(*asked, *answer), num_prompt_messages=len(asked))
