"""From what was sampled to what is trained on."""

from __future__ import annotations

from hone.types import Completion, Prompt, Rollout, VersionSpan, sample_of


def test_only_tokens_that_the_model_sampled_are_targets() -> None:
    completion = Completion.of_version(
        (7, 8, 9, 10, 11), (-0.1, -0.2, 0.0, 0.0, -0.3), "stop", 0, (True, True, False, False, True)
    )
    sample = sample_of(Rollout(Prompt("p", (5, 6), "text"), completion, ""))
    assert completion.num_sampled == 3
    assert sample.tokens_T.tolist() == [5, 6, 7, 8, 9, 10, 11]
    assert sample.loss_mask_T.tolist() == [False, False, True, True, False, False, True]
    assert sample.is_sampled_from(0)
    assert [round(p, 4) for p in sample.token_columns["generation_logprobs"].tolist()] == [-0.1, -0.2, -0.3]


def test_without_a_mask_the_model_sampled_all() -> None:
    completion = Completion.of_version((7, 8), (-0.1, -0.2), "stop", 0)
    sample = sample_of(Rollout(Prompt("p", (5, 6), "text"), completion, ""))
    assert completion.num_sampled == sample.num_targets == 2


def test_a_sample_knows_which_weights_sampled_which_of_its_tokens() -> None:
    spans = (VersionSpan(3, 0, 2), VersionSpan(4, 2, 3))
    completion = Completion((7, 8, 9), (-0.1, -0.2, -0.3), "stop", spans)
    sample = sample_of(Rollout(Prompt("p", (5, 6), "text"), completion, ""))
    assert completion.version == 3
    assert sample.versions == ((3, 2, 4), (4, 4, 5))
    assert not sample.is_sampled_from(3)
    assert not sample.is_sampled_from(4)
