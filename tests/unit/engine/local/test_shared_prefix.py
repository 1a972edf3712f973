"""A prompt that several completions share is computed once, and nothing but rounding tells."""

from __future__ import annotations

import pytest
import tiny
import torch

from hone.algorithms.policy_loss import PolicyLoss
from hone.config.schema import LossConfig, ModelConfig
from hone.engine.local.batching import collate, plan
from hone.types import Sample

LOSS = PolicyLoss(LossConfig(reference_policy_kl_penalty=0.0, token_level_loss=False), on_policy=True)


def groups(*, share: bool, prompts: int = 3, each: int = 4, prompt_length: int = 12) -> list[Sample]:
    """Ragged completions of a few prompts; with `share` false the same samples do not say what they have in common."""
    generator = torch.Generator().manual_seed(3)
    samples = []
    for g in range(prompts):
        prompt = torch.randint(2, tiny.VOCABULARY, (prompt_length + g,), generator=generator)
        for c in range(each):
            length = int(torch.randint(1, 9, (1,), generator=generator))
            completion = torch.randint(2, tiny.VOCABULARY, (length,), generator=generator)
            tokens = torch.cat([prompt, completion])
            mask = torch.arange(len(tokens)) >= len(prompt)
            samples.append(
                Sample(
                    id=f"{g}.{c}",
                    tokens_T=tokens,
                    loss_mask_T=mask,
                    token_columns={"generation_logprobs": -torch.rand(length, generator=generator)},
                    sequence_columns={"advantage": float(torch.randn((), generator=generator))},
                    group=f"g{g}",
                    prefix=len(prompt) if share else 0,
                )
            )
    return samples


def policy(**settings: object) -> ModelConfig:
    return tiny.sft_config(**settings).policy


LAYOUTS = {
    "one group a micro-batch": {"train_micro_batch_size": 4},
    "groups are split": {"train_micro_batch_size": 3},
    "all at once": {"train_micro_batch_size": 12},
    "by tokens": {
        "dynamic_batching": {
            "enabled": True,
            "train_mb_tokens": 64,
            "logprob_mb_tokens": 64,
            "sequence_length_round": 8,
        }
    },
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_log_probabilities_and_gradients_are_those_of_the_samples_alone(
    kind: str, layout: dict[str, object]
) -> None:
    shared = tiny.make_learner(tiny.make_model(kind), policy(**layout))
    alone = tiny.make_learner(tiny.make_model(kind), policy(train_micro_batch_size=1))
    ours, theirs = groups(share=True), groups(share=False)
    assert shared.scorer.supports_shared_prefix
    assert any(len(row) > 1 for rows in shared._share(ours, training=True) for row in rows)
    for a, b in zip(tiny.run(shared.forward(ours)), tiny.run(alone.forward(theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    first = tiny.run(shared.forward_backward(ours, LOSS))
    second = tiny.run(alone.forward_backward(theirs, LOSS))
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-5)
    assert tiny.largest_gap(tiny.gradients(shared.model), tiny.gradients(alone.model)) < 1e-5


def test_a_completion_does_not_see_another() -> None:
    learner = tiny.make_learner(tiny.make_model(), policy(train_micro_batch_size=12))
    samples = groups(share=True)
    before = tiny.run(learner.forward(samples))
    samples[1].tokens_T[-1] = (samples[1].tokens_T[-1] + 7) % tiny.VOCABULARY
    after = tiny.run(learner.forward(samples))
    moved = {i for i, (a, b) in enumerate(zip(before, after, strict=True)) if (a - b).abs().max() > 1e-6}
    assert moved == {1}


def test_the_prompt_is_laid_out_once() -> None:
    samples = groups(share=True)
    micros = plan(samples, policy(train_micro_batch_size=4), training=True, share=True)
    assert sorted(i for rows in micros for row in rows for i in row) == list(range(12))
    rows = [[samples[i] for i in row] for row in micros[0]]
    micro = collate(rows, pad=0, device=torch.device("cpu"), share=True)
    (row,) = rows
    assert micro.input_ids.shape == (1, row[0].prefix + sum(len(s) - s.prefix for s in row))
    # the first target of every completion is predicted from the last token of the one prompt
    firsts = micro.positions_N[
        torch.cat([torch.zeros(1, dtype=torch.long), micro.batch.lengths_S.cumsum(0)[:-1]])
    ]
    assert firsts.tolist() == [row[0].prefix - 1] * len(row)


def test_short_prompts_are_not_worth_it() -> None:
    def planned(prompt: int, *answers: int) -> list[int]:
        """Samples in each row."""
        samples = [
            Sample(str(n), torch.ones(prompt + n, dtype=torch.long), torch.arange(prompt + n) >= prompt)
            for n in answers
        ]
        for sample in samples:
            sample.group, sample.prefix = "g", prompt
        micros = plan(samples, policy(train_micro_batch_size=4), training=True, share=True)
        return [len(row) for rows in micros for row in rows]

    assert planned(1, 8, 8, 8, 8) == [1, 1, 1, 1]  # 33 tokens in place of 36
    assert planned(5, 8, 8, 8, 8) == [4]  # 37 in place of 52
    assert planned(1, 2, 2, 2, 8) == [4]  # 15 in place of 18, but padded to 36


def test_a_model_with_a_window_does_not_share() -> None:
    learner = tiny.make_learner(tiny.make_model("mistral"), policy(train_micro_batch_size=4))
    assert not learner.scorer.supports_shared_prefix
    alone = tiny.make_learner(tiny.make_model("mistral"), policy(train_micro_batch_size=1))
    pairs = zip(
        tiny.run(learner.forward(groups(share=True))),
        tiny.run(alone.forward(groups(share=False))),
        strict=True,
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
