"""What is chosen, in which order, and what is said when nothing fits."""

from __future__ import annotations

import functools
import time
from dataclasses import replace
from typing import Any

import pytest
from tiny import CONFIGS
from transformers import LlamaConfig

from hone.config.schema.grpo import GRPOConfig
from hone.config.schema.sft import SFTConfig
from hone.errors import ConfigError
from hone.model.model_size import ModelSize, model_size_of
from hone.planning.hardware import GIB, Hardware, hardware_here, hardware_named
from hone.planning.memory_estimate import Settings, estimate_memory
from hone.planning.parallel_dims import ParallelDims
from hone.planning.planner import OPEN, candidates, choose, micro_batches, resolve, tensor_sizes

LLAMA = {"vocab_size": 32000, "max_position_embeddings": 4096}
# Touvron et al. 2023 (arXiv 2307.09288) and the Llama 3 report (arXiv 2407.21783), table 3; parameters as published
# on the models' pages.
PUBLISHED: dict[str, tuple[LlamaConfig, int]] = {
    "7B": (LlamaConfig(**LLAMA, hidden_size=4096, intermediate_size=11008), 6_738_415_616),
    "13B": (
        LlamaConfig(
            **LLAMA, hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40
        ),
        13_015_864_320,
    ),
    "70B": (
        LlamaConfig(
            **LLAMA,
            hidden_size=8192,
            intermediate_size=28672,
            num_hidden_layers=80,
            num_attention_heads=64,
            num_key_value_heads=8,
        ),
        68_976_648_192,
    ),
    "405B": (
        LlamaConfig(
            vocab_size=128256,
            max_position_embeddings=131072,
            hidden_size=16384,
            intermediate_size=53248,
            num_hidden_layers=126,
            num_attention_heads=128,
            num_key_value_heads=8,
        ),
        405_853_388_800,
    ),
}


def sft(**policy: Any) -> SFTConfig:
    return SFTConfig(policy={"max_total_sequence_length": 2048, **policy})


def a100(nodes: int = 1, per_node: int = 1) -> Hardware:
    return hardware_named("A100-80G", nodes=nodes, per_node=per_node)


@functools.cache
def published(name: str) -> ModelSize:
    return model_size_of(PUBLISHED[name][0])


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_published(name: str) -> None:
    assert published(name).parameters == PUBLISHED[name][1]


def test_the_largest_is_planned_at_once() -> None:
    began = time.perf_counter()
    choose(published("405B"), sft(), hardware_named("H100-80G", nodes=4, per_node=8))
    assert time.perf_counter() - began < 2


def order(shape: ModelSize, config: SFTConfig, hardware: Hardware) -> list[Settings]:
    return [settings for settings, _ in candidates(shape, config, hardware)]


def test_the_least_intrusive_comes_first() -> None:
    found = order(published("7B"), sft(), a100(per_node=2))
    assert found[:4] == [
        Settings(4),
        Settings(4, activation_checkpointing=True),
        Settings(2, activation_checkpointing=True),
        Settings(1, activation_checkpointing=True),
    ]
    split = {"tensor": 2, "sequence_parallel": True}
    assert found[4:6] == [Settings(4, **split), Settings(4, activation_checkpointing=True, **split)]
    assert [s.cpu_offload for s in found] == [False] * 8 + [True] * 8


def test_each_is_taken_when_those_before_it_do_not_fit() -> None:
    """A device that has room for one candidate, and less than those before it need."""
    shape, config = published("7B"), sft()
    for number, (settings, layout) in enumerate(candidates(shape, config, a100(per_node=2))):
        need = estimate_memory(shape, config, layout, settings).peak
        hardware = replace(a100(per_node=2), memory=int(need / 0.92) + 2)
        choice = choose(shape, config, hardware)
        assert choice.fits
        assert len(choice.refused) <= number  # this one, or one before it that needs no more
        assert all(candidate.memory.peak > need for candidate in choice.refused)


def test_seven_billion_on_one_and_on_two() -> None:
    # 16 bytes for each of 6.738 G parameters: 107.8 GB of one A100's 85.0 GB; 53.9 GB of each of two
    one = choose(published("7B"), sft(), a100())
    assert one.taken.settings == Settings(4, activation_checkpointing=True, cpu_offload=True)
    assert one.taken.memory.host == 16 * 6_738_415_616
    assert [candidate.memory.resident for candidate in one.refused] == [16 * 6_738_415_616] * 4 + [0]
    two = choose(published("7B"), sft(), a100(per_node=2))
    assert two.taken.settings == Settings(4, activation_checkpointing=True)
    assert two.taken.memory.resident == 8 * 6_738_415_616
    assert (two.backend, two.dims) == ("FSDP2", ParallelDims(per_node=2, shard=2))
    adapted = choose(published("7B"), sft(lora={"enabled": True}), a100())
    assert not adapted.taken.settings.cpu_offload
    assert adapted.backend == "one process"


def test_what_is_given_is_obeyed() -> None:
    config = sft(
        train_micro_batch_size=2,
        activation_checkpointing=False,
        tensor_parallel_size=2,
        cpu_offload=False,
    )
    hardware = a100(per_node=8)
    assert order(published("7B"), config, hardware) == [Settings(2, tensor=2)]
    resolved, choice = resolve(config, published("7B"), replace(hardware, memory=None))
    assert choice.fits is None
    assert resolved.policy == config.policy.model_copy(update={"logprob_batch_size": 2})


def test_what_does_not_fit_stops_with_what_would() -> None:
    config = sft(activation_checkpointing=False, cpu_offload=False)
    with pytest.raises(ConfigError) as caught:
        resolve(config, published("7B"), a100())
    message = str(caught.value)
    assert message.startswith("hone/tiny does not fit: it needs at least (micro-batch 1) ")
    assert "on each of A100-80G, of which 72.9 GiB can be used" in message
    assert "leave policy.cpu_offload open (null)" in message
    assert "policy.lora.enabled=true" in message
    assert "cluster.num_nodes=1 cluster.gpus_per_node=2" in message


def test_what_is_said_to_fit_fits() -> None:
    config = sft(cpu_offload=False)
    choice = choose(published("70B"), config, a100(per_node=8))
    assert choice.fits is False
    opened, adapted, more = choice.nearest
    assert opened.startswith("leave policy.cpu_offload open (null): 41")
    assert choose(published("70B"), sft(), a100(per_node=8)).fits
    assert adapted.startswith("policy.lora.enabled=true: ")
    assert choose(published("70B"), sft(cpu_offload=False, lora={"enabled": True}), a100(per_node=8)).fits
    assert more.startswith("2 x 8 A100-80G (cluster.num_nodes=2 cluster.gpus_per_node=8)")
    assert choose(published("70B"), config, a100(nodes=2, per_node=8)).fits


def test_offload_needs_room_in_the_machine() -> None:
    tight = replace(a100(), host=64 * GIB)
    choice = choose(published("7B"), sft(), tight)
    assert choice.fits is False
    assert "of the 64 GiB of each machine's memory" in choice.short()
    assert choose(published("7B"), sft(), replace(tight, host=128 * GIB)).fits


def test_a_cpu_is_never_refused() -> None:
    hardware = Hardware("CPU", memory=GIB, host=GIB, elastic=True)
    resolved, choice = resolve(sft(), published("7B"), hardware)
    assert choice.fits is False
    assert not resolved.policy.cpu_offload
    assert resolved.policy.train_micro_batch_size == 1
    small, choice = resolve(sft(), model_size_of(CONFIGS["llama"]()), hardware)
    assert choice.fits
    assert small.policy.train_micro_batch_size == 2  # 4096 tokens
    assert small.policy.logprob_batch_size == 2


def test_a_micro_batch_divides_the_batch_and_leaves_each_rank_one() -> None:
    wide = ParallelDims(per_node=4, shard=4)
    assert micro_batches(sft(train_global_batch_size=12).policy, ParallelDims(), 8192) == [4, 3, 2, 1]
    assert micro_batches(sft(train_global_batch_size=12).policy, wide, 8192) == [3, 2, 1]
    assert micro_batches(sft(train_global_batch_size=2).policy, wide, 8192) == [1]
    assert micro_batches(sft(max_total_sequence_length=100_000).policy, ParallelDims(), 8192) == [1]


def test_budgets_of_tokens_follow_the_micro_batch_or_are_obeyed() -> None:
    follows = sft(sequence_packing={"enabled": True})
    resolved, _ = resolve(follows, published("7B"), a100(per_node=2))
    assert resolved.policy.sequence_packing.train_mb_tokens == 8192
    assert resolved.policy.sequence_packing.logprob_mb_tokens == 8192
    assert follows.policy.sequence_packing.train_mb_tokens is None  # the given configuration is left as it is
    given = sft(sequence_packing={"enabled": True, "train_mb_tokens": 5000})
    assert len(micro_batches(given.policy, ParallelDims(), 8192)) == 1  # smaller ones would change nothing
    resolved, choice = resolve(given, published("7B"), a100(per_node=2))
    assert resolved.policy.sequence_packing.train_mb_tokens == 5000
    assert (
        choice.taken.memory.activations
        < 0.7 * 8192 / 5000 * choose(published("7B"), follows, a100(per_node=2)).taken.memory.activations
    )


def test_tensor_sizes_divide_heads_vocabulary_and_the_node() -> None:
    shape = published("70B")  # 8 key/value heads
    assert tensor_sizes(shape, sft().policy, a100(per_node=8)) == [1, 2, 4, 8]
    assert tensor_sizes(shape, sft().policy, a100(per_node=16)) == [1, 2, 4, 8]
    assert tensor_sizes(shape, sft().policy, a100(nodes=8)) == [1]
    assert tensor_sizes(shape, sft().policy, a100(per_node=6)) == [1, 2]
    assert tensor_sizes(shape, sft(context_parallel_size=4).policy, a100(per_node=8)) == [1, 2]
    assert tensor_sizes(replace(shape, vocabulary=32001), sft().policy, a100(per_node=8)) == [1]
    assert tensor_sizes(replace(shape, supports_tensor_parallel=False), sft().policy, a100(per_node=8)) == [1]
    assert tensor_sizes(shape, sft(lora={"enabled": True}).policy, a100(per_node=8)) == [1]


def test_a_mesh_that_does_not_multiply_out() -> None:
    config = sft(context_parallel_size=3)
    with pytest.raises(ConfigError, match=r"policy.context_parallel_size=3 .* the 8 devices"):
        resolve(config, published("7B"), a100(per_node=8))
    assert choose(published("7B"), config, a100()).dims == ParallelDims()  # one device is one rank


def test_the_built_in_generator_bounds_grpo() -> None:
    config = GRPOConfig(policy={"max_total_sequence_length": 2048})
    choice = choose(published("70B"), config, a100(nodes=4, per_node=8))
    assert choice.fits is False  # 138 GB of bfloat16 on every device, however many there are
    assert choice.nearest == ()
    assert "a smaller model" in choice.short()
    assert choose(published("7B"), config, a100(per_node=8)).fits


def test_every_open_key_has_a_value_when_resolved() -> None:
    resolved, _ = resolve(sft(), model_size_of(CONFIGS["llama"]()), hardware_here(gpu=False))
    assert all(getattr(resolved.policy, key) is not None for key in OPEN)


def test_machines_by_name() -> None:
    assert str(a100(2, 8)) == "2 x 8 A100-80G"
    assert hardware_named("h100-80g", nodes=1, per_node=1).device == "H100-80G"
    assert hardware_named("48", nodes=1, per_node=1).memory == 48 * GIB
    for wrong in ("A100-80GB", "-3", "fast"):
        with pytest.raises(ConfigError, match=r"--gpu .*Give the GiB of one GPU"):
            hardware_named(wrong, nodes=1, per_node=1)
