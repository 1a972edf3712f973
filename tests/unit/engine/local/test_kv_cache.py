"""The cache that is written in place holds what the library's own would."""

from __future__ import annotations

import pytest
import torch
from tiny import make_model
from transformers import DynamicCache

from hone.engine.local import kv_cache
from hone.model.attention import has_full_attention


def test_slab_cache_equals_the_dynamic_one() -> None:
    """Appending, growing past the room, and selecting rows: what a layer returns and holds is the same."""
    config = make_model("mistral").config
    config.sliding_window = None
    slab, plain = kv_cache.preallocated_cache(config, room=4), DynamicCache(config=config)
    assert all(isinstance(layer, kv_cache.PreallocatedLayer) for layer in slab.layers)
    generator = torch.Generator().manual_seed(0)
    rows = 3
    for step, new in enumerate([5, 1, 1, 1, 1, 1, 3, 1, 1]):  # the room of 4 is used up at the seventh
        for layer in range(2):
            keys, values = torch.randn(2, rows, 2, new, 8, generator=generator)
            ours, theirs = slab.update(keys, values, layer), plain.update(keys, values, layer)
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        assert slab.get_seq_length() == plain.get_seq_length()
        if step in (2, 6):
            index = torch.tensor([2, 0, 2]) if step == 2 else torch.tensor([1])
            kv_cache.select_rows(slab, index)
            kv_cache.select_rows(plain, index)
            rows = len(index)


def test_the_slab_is_written_in_place() -> None:
    cache = kv_cache.preallocated_cache(make_model().config, room=8)
    first, _ = cache.update(torch.zeros(1, 2, 3, 8), torch.zeros(1, 2, 3, 8), 0)
    second, _ = cache.update(torch.ones(1, 2, 1, 8), torch.ones(1, 2, 1, 8), 0)
    assert first.data_ptr() == second.data_ptr()


def test_windowed_layers_keep_their_own_cache() -> None:
    assert not has_full_attention(make_model("mistral").config)
    assert not has_full_attention(make_model("gemma2").config)
    assert has_full_attention(make_model("qwen3").config)


def test_a_full_device_is_not_taken_for_a_model_without_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = make_model()
    assert kv_cache.works(model)
    monkeypatch.setattr(model, "forward", full)
    with pytest.raises(torch.OutOfMemoryError):
        kv_cache.works(model)
