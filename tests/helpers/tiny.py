"""Models, tokenizers, samples and configurations so small that a test takes milliseconds. Not a test itself."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from hone.config.schema import ModelConfig
from hone.config.schema.grpo import GRPOConfig
from hone.config.schema.sft import SFTConfig
from hone.engine.local.learner import LocalLearner
from hone.model.attention import use_grouped_sdpa
from hone.types import Batch, Completion, Group, Prompt, Rollout, Sample

T = TypeVar("T")
VOCABULARY = 64
PAD, EOS = 0, 1
_BY_TOKENS = {"enabled": True, "train_mb_tokens": 64, "logprob_mb_tokens": 64}
WAYS: dict[str, dict[str, Any]] = {
    "one at a time": {"train_micro_batch_size": 1},
    "five at a time": {"train_micro_batch_size": 5},
    "by tokens": {"dynamic_batching": _BY_TOKENS},
    "packed": {"sequence_packing": _BY_TOKENS},
}
"""How a policy's samples are laid out."""

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.15,  # logits with a standard deviation near 1: probabilities that differ
    "pad_token_id": PAD,
    "bos_token_id": None,
    "eos_token_id": EOS,
    "tie_word_embeddings": False,
}
CONFIGS: dict[str, Any] = {
    "llama": lambda **k: LlamaConfig(**{**_SHAPE, **k}),
    "qwen3": lambda **k: Qwen3Config(**{**_SHAPE, "tie_word_embeddings": True, **k}),
    "qwen2": lambda **k: Qwen2Config(**{**_SHAPE, **k}),
    "mistral": lambda **k: MistralConfig(**{**_SHAPE, "sliding_window": 5, **k}),
    "gemma2": lambda **k: Gemma2Config(
        **{**_SHAPE, "sliding_window": 5, "final_logit_softcapping": 2.0, **k}
    ),
}


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of an `async` verb."""
    return asyncio.run(coroutine)


def make_model(kind: str = "llama", *, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """Two layers with random weights, set up the way `hone.model.load_model` does."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[kind](**overrides), dtype=torch.float32)
    use_grouped_sdpa(model)
    model.config.use_cache = False
    return model


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each of 61 characters; pad 0, end of sequence 1, unknown 2."""
    characters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,!?<>-+"
    vocabulary = {
        token: i for i, token in enumerate(["<pad>", "<eos>", "<unk>", *characters[: VOCABULARY - 3]])
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def make_samples(
    count: int, *, seed: int = 0, shortest: int = 3, longest: int = 20, vocabulary: int = VOCABULARY
) -> list[Sample]:
    """Ragged sequences; half of them with a hole in their loss mask, as multi-turn data has."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for index in range(count):
        length = int(torch.randint(shortest, longest + 1, (1,), generator=generator))
        mask = torch.zeros(length, dtype=torch.bool)
        mask[int(torch.randint(1, length, (1,), generator=generator)) :] = True
        if index % 2 and length > 4:
            mask[2] = True
        tokens = torch.randint(2, vocabulary, (length,), generator=generator)
        samples.append(Sample(id=f"row{index}", tokens_T=tokens, loss_mask_T=mask))
    return samples


def sft_config(**policy: Any) -> SFTConfig:
    """fp32, plain SGD-like defaults replaced by what `policy` says."""
    return SFTConfig(
        policy={
            "precision": "float32",
            "max_total_sequence_length": 64,
            "train_micro_batch_size": 1,
            **policy,
        }
    )


def grpo_config(
    *,
    policy: dict[str, Any] | None = None,
    grpo: dict[str, Any] | None = None,
    loss_fn: dict[str, Any] | None = None,
) -> GRPOConfig:
    """fp32 GRPO."""
    return GRPOConfig(
        policy={
            "precision": "float32",
            "max_total_sequence_length": 64,
            "train_micro_batch_size": 4,
            **(policy or {}),
        },
        grpo=grpo or {},
        loss_fn=loss_fn or {},
    )


def make_learner(
    model: PreTrainedModel | None = None, policy: ModelConfig | None = None, **kwargs: Any
) -> LocalLearner:
    """A learner of a tiny model."""
    return LocalLearner(
        model if model is not None else make_model(),
        policy if policy is not None else sft_config().policy,
        pad_token=PAD,
        **kwargs,
    )


def make_batch(
    lengths: Sequence[int], columns: dict[str, Any] | None = None, per_sequence: dict[str, Any] | None = None
) -> Batch:
    """A Batch of sequences with these numbers of targets."""
    return Batch(
        ids=[f"row{i}" for i in range(len(lengths))],
        tokens_N=torch.zeros(sum(lengths), dtype=torch.long),
        sequence_N=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
        lengths_S=torch.tensor(lengths),
        token_columns={name: torch.as_tensor(values) for name, values in (columns or {}).items()},
        sequence_columns={name: torch.tensor(values) for name, values in (per_sequence or {}).items()},
    )


def make_groups(
    rewards: Sequence[Sequence[float | None]], *, seed: int = 0, prompt_length: int = 3, longest: int = 8
) -> list[Group]:
    """One group for each list of rewards; None is a failed rollout. Tokens and generator log-probabilities random."""
    generator = torch.Generator().manual_seed(seed)
    groups = []
    for g, values in enumerate(rewards):
        prompt = Prompt(
            id=f"draw{g}",
            tokens=tuple(torch.randint(2, VOCABULARY, (prompt_length,), generator=generator).tolist()),
            content="the same text",
        )
        rollouts = []
        for value in values:
            length = int(torch.randint(1, longest + 1, (1,), generator=generator))
            completion = Completion.of_version(
                tokens=tuple(torch.randint(2, VOCABULARY, (length,), generator=generator).tolist()),
                logprobs=tuple((-4 * torch.rand(length, generator=generator)).tolist()),
                finish="stop",
                version=0,
            )
            failure = "reward function raised" if value is None else None
            rollouts.append(Rollout(prompt, completion, "", reward=value, failure=failure))
        groups.append(Group(prompt.id, rollouts))
    return groups


def gradients(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A copy of every gradient by parameter name."""
    return {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.grad is not None}


def largest_gap(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Largest |difference| over all tensors, relative to the largest |value| of its own tensor."""
    assert ours.keys() == theirs.keys()
    gaps = [
        float((ours[name] - theirs[name]).abs().max() / theirs[name].abs().max().clamp(min=1e-12))
        for name in ours
    ]
    return max(gaps)
