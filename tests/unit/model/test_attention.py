"""Attention by groups of query heads is PyTorch's attention."""

from __future__ import annotations

import pytest
import torch
from tiny import make_model
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from hone.model.attention import NAME, grouped_sdpa, use_grouped_sdpa


class Layer(torch.nn.Module):
    """What the attention functions ask of a module."""

    is_causal = True

    def __init__(self, heads: int, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups = heads // groups


def both(
    heads: int, groups: int, new: int, mask: torch.Tensor | None, **kwargs: float
) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    query = torch.randn(3, heads, new, 8)
    key, value = torch.randn(2, 3, groups, 7, 8)
    layer = Layer(heads, groups).eval()
    ours, _ = grouped_sdpa(layer, query, key, value, mask, **kwargs)
    theirs, _ = sdpa_attention_forward(layer, query, key, value, mask, **kwargs)
    return ours, theirs


PADDING = torch.tensor([[1] * 7, [0] * 3 + [1] * 4, [0] * 6 + [1]], dtype=torch.bool)


@pytest.mark.parametrize(("heads", "groups"), [(4, 2), (6, 1), (4, 4), (8, 2)])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_one_new_token(heads: int, groups: int, scaling: float | None) -> None:
    kwargs = {} if scaling is None else {"scaling": scaling}
    for mask in (PADDING[:, None, None, :], torch.where(PADDING, 0.0, -1e9)[:, None, None, :]):
        ours, theirs = both(heads, groups, 1, mask, **kwargs)
        assert ours.shape == theirs.shape == (3, 1, heads, 8)
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_one_new_token_without_a_mask() -> None:
    ours, theirs = both(4, 2, 1, None)
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_several_new_tokens_go_the_usual_way() -> None:
    mask = (
        PADDING[:, None, None, :] & torch.tril(torch.ones(7, 7, dtype=torch.bool))[None, None, -4:]
    ).clone()
    mask[..., -1] = True  # no row without any key
    ours, theirs = both(4, 2, 4, mask)
    assert torch.equal(ours, theirs)


def test_a_mask_for_each_head_goes_the_usual_way() -> None:
    mask = PADDING[:, None, None, :].expand(-1, 4, -1, -1).clone()
    mask[:, 1, :, -2] = False
    ours, theirs = both(4, 2, 1, mask)
    assert torch.equal(ours, theirs)


def test_only_models_with_pytorchs_attention_change() -> None:
    assert make_model().config._attn_implementation == NAME
    eager = make_model(attn_implementation="eager")
    use_grouped_sdpa(eager)
    assert eager.config._attn_implementation == "eager"
