"""SmolLM2-135M-Instruct, whose weights mean something: every number against `transformers`' own.

What a model of random weights forgives (nearly flat distributions, tiny activations) shows here.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from processes import hone, metric_rows, result, same, start, succeeded
from transformers import AutoModelForCausalLM, AutoTokenizer

from hone.engine.local.generator import LocalGenerator
from hone.engine.local.learner import LocalLearner
from hone.model.loading import load_model, load_tokenizer, stop_tokens
from hone.model.scorer import TokenScorer
from hone.types import Prompt, Sample, Sampling
from tests.integration.real.conftest import CAPITALS, numbers, question

pytestmark = pytest.mark.slow

MODEL = ("policy.model_name=model", "policy.precision=float32", "policy.max_total_sequence_length=96")
SFT = (
    *("sft", *MODEL, "data.train.dataset_name=rows.jsonl", "policy.optimizer.kwargs.lr=1e-5"),
    *("policy.train_global_batch_size=4", "policy.train_micro_batch_size=2", "sft.max_num_epochs=null"),
    *("sft.val_period=0", "sft.val_at_start=false", "sft.val_at_end=false", "checkpointing.metric_name=null"),
)
GRPO = (
    *("grpo", *MODEL, "data.train.dataset_name=prompts.jsonl", "policy.optimizer.kwargs.lr=1e-6"),
    *("grpo.num_prompts_per_step=2", "grpo.num_generations_per_prompt=4", "grpo.max_num_steps=2"),
    *("policy.train_global_batch_size=8", "policy.generation.max_new_tokens=16", "grpo.val_period=0"),
    *("grpo.val_at_start=false", "loss_fn.reference_policy_kl_penalty=0.01", "rewards.num_workers=1"),
    "rewards.functions=[{path: rewards.py:names_it}, {path: rewards.py:length, weight: 0.1}]",
)


@pytest.fixture(scope="module")
def theirs(smol: Path) -> Any:
    """The model as `transformers` loads it, in fp32, with its own attention."""
    return AutoModelForCausalLM.from_pretrained(smol, dtype=torch.float32, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def tokenizer(smol: Path) -> Any:
    return load_tokenizer(str(smol))


@pytest.fixture(scope="module")
def ours(smol: Path) -> Any:
    return load_model(str(smol))


def logprobs(model: Any, sample: Sample) -> torch.Tensor:
    """Of a sample's targets, by the model's own logits."""
    with torch.no_grad():
        logits = model(sample.tokens_T[None]).logits[0, :-1].float()
    every = logits.log_softmax(-1).gather(1, sample.tokens_T[1:, None])[:, 0]
    return every[sample.loss_mask_T[1:]]


def answered(tokenizer: Any, country: str, answer: str, *, group: str = "") -> Sample:
    """A question and an answer to it, which is the target."""
    asked = tokenizer.apply_chat_template(question(country), add_generation_prompt=True, return_dict=False)
    said = tokenizer(f"{answer}<|im_end|>", add_special_tokens=False)["input_ids"]
    mask = torch.tensor([False] * len(asked) + [True] * len(said))
    tokens = torch.tensor(asked + said)
    return Sample(f"{country}{answer}", tokens, mask, group=group, prefix=len(asked) if group else 0)


@pytest.mark.parametrize("way", tiny.WAYS)
def test_every_layout_gives_the_log_probabilities_of_transformers(
    way: str, ours: Any, theirs: Any, tokenizer: Any
) -> None:
    """Answers to one question share its computation where the layout has it so; others stand alone."""
    wide = {"train_mb_tokens": 256, "logprob_mb_tokens": 256}
    given = {k: {**v, **wide} if isinstance(v, dict) else v for k, v in tiny.WAYS[way].items()}
    policy = tiny.sft_config(**given, max_total_sequence_length=128).policy
    learner = LocalLearner(TokenScorer(ours), policy, pad_token=tokenizer.pad_token_id, frozen=True)
    alone = [answered(tokenizer, country, f"It is {city}.") for country, city in list(CAPITALS.items())[:3]]
    shared = [
        answered(tokenizer, "Cuba", text, group="cuba") for text in ("Havana.", "I do not know.", "Rome!")
    ]
    samples = [*alone, *shared]
    for sample, found in zip(samples, tiny.run(learner.forward(samples)), strict=True):
        torch.testing.assert_close(found, logprobs(theirs, sample), rtol=1e-4, atol=2e-4)


def test_greedy_decoding_is_that_of_transformers(ours: Any, theirs: Any, tokenizer: Any) -> None:
    """Token for token, prompts of several lengths in one batch; and it knows some geography."""
    asked = [
        tokenizer.apply_chat_template(question(country), add_generation_prompt=True, return_dict=False)
        for country in CAPITALS
    ]
    generator = LocalGenerator(
        ours, tokenizer, stop_tokens=stop_tokens(ours, tokenizer), context=128, max_rows=8
    )
    prompts = [Prompt(str(i), tuple(tokens), "") for i, tokens in enumerate(asked)]
    groups = tiny.run(generator.generate(prompts, Sampling(12, temperature=0.0)))
    right = 0
    for tokens, [completion], city in zip(asked, groups, CAPITALS.values(), strict=True):
        whole = theirs.generate(
            torch.tensor([tokens]), max_new_tokens=12, do_sample=False, pad_token_id=tokenizer.pad_token_id
        )[0, len(tokens) :]
        assert list(completion.tokens) == whole.tolist()
        right += city in tokenizer.decode(whole)
    assert right >= 6


@pytest.mark.long
def test_sft_learns_and_resumes_to_the_bit(place: Path) -> None:
    run = (*SFT, "sft.max_num_steps=4", "checkpointing.save_period=2")
    whole = succeeded(hone(*run, "checkpointing.checkpoint_dir=whole", cwd=place, timeout=600))
    rows = [float(row["train_loss"]) for row in metric_rows(place / "whole")]
    assert rows[3] < rows[0] - 0.1, whole.out

    again = start(*run, "checkpointing.checkpoint_dir=killed", cwd=place)
    again.until("saved killed/step_2", timeout=600)
    again.send(signal.SIGKILL)
    assert again.wait(60).code == -signal.SIGKILL
    assert (
        "resumed from killed/step_2"
        in succeeded(hone(*run, "checkpointing.checkpoint_dir=killed", cwd=place, timeout=600)).out
    )
    same(result(place / "killed"), result(place / "whole"))


def test_the_loss_of_the_whole_data_is_transformers(place: Path, theirs: Any, tokenizer: Any) -> None:
    """One batch of all rows at a learning rate of 0: the mean over all target tokens, the end of turn among them."""
    run = (*SFT, "sft.max_num_steps=1", "policy.train_global_batch_size=8", "policy.optimizer.kwargs.lr=0.0")
    succeeded(hone(*run, "checkpointing.checkpoint_dir=all", cwd=place, timeout=600))
    samples = [answered(tokenizer, a, f"It is {b}, of course, where else?") for a, b in CAPITALS.items()]
    every = torch.cat([logprobs(theirs, sample) for sample in samples])
    row = metric_rows(place / "all")[0]
    # The template writes a newline after the end of a turn, which is no target.
    assert float(row["target_tokens"]) == len(every)
    assert float(row["train_loss"]) == pytest.approx(-float(every.mean()), rel=1e-4)


def test_an_adapter_merged_and_not_is_one_model(place: Path, theirs: Any, tokenizer: Any) -> None:
    peft = pytest.importorskip("peft")
    run = (*SFT, "sft.max_num_steps=2", "policy.lora.enabled=true", "policy.optimizer.kwargs.lr=1e-3")
    succeeded(hone(*run, "checkpointing.checkpoint_dir=lora", cwd=place, timeout=600))
    succeeded(hone("convert", "lora", "merged", cwd=place, timeout=300))
    succeeded(hone("convert", "--adapter", "lora", "adapter", cwd=place, timeout=300))
    sample = answered(tokenizer, "Cuba", "It is Havana, of course, where else?")
    before = logprobs(theirs, sample)
    merged = AutoModelForCausalLM.from_pretrained(place / "merged", dtype=torch.float32).eval()
    base = AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float32)
    adapted = peft.PeftModel.from_pretrained(base, str(place / "adapter")).eval()
    after = logprobs(merged, sample)
    torch.testing.assert_close(logprobs(adapted, sample), after, rtol=1e-4, atol=2e-4)
    assert float(after.mean()) > float(before.mean()) + 0.05, "it has learned something"


def test_grpo_evaluation_and_convert(place: Path) -> None:
    """Rollouts' log-probabilities are the learner's; the reference is where training begins; the exported model is
    loaded by `transformers`, and answers as Hone's evaluation of the run says."""
    said = succeeded(hone(*GRPO, "checkpointing.checkpoint_dir=rl", cwd=place, timeout=900)).out
    first, second = metric_rows(place / "rl")
    assert float(first["generation_mismatch"]) < 1e-3, said
    assert float(second["generation_mismatch"]) < 1e-3
    assert float(first["kl"]) == pytest.approx(0.0, abs=1e-5)
    assert float(first["reward"]) > 0
    ask = (
        *("data.dataset_name=prompts.jsonl", "rewards.functions=[{path: rewards.py:names_it}]"),
        *("generation.max_new_tokens=12", "generation.precision=float32", "generation.max_model_len=96"),
        *("generation.temperature=0.0", "rewards.num_workers=1"),
    )
    succeeded(hone("eval", "generation.model_name=rl", *ask, "eval.save_path=told", cwd=place, timeout=600))
    report = numbers(place / "told" / "report.json")
    assert report["score"] >= 6 / 8
    succeeded(hone("convert", "rl", "exported", cwd=place, timeout=300))
    model = AutoModelForCausalLM.from_pretrained(place / "exported", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(place / "exported")
    lines = (place / "told" / "samples.jsonl").read_text().splitlines()
    record = next(one for one in map(json.loads, lines) if one["answer"] == "Paris")
    asked = tokenizer.apply_chat_template(question("France"), add_generation_prompt=True, return_tensors="pt")
    ids = asked["input_ids"] if not torch.is_tensor(asked) else asked
    whole = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert tokenizer.decode(whole, skip_special_tokens=True) == record["completion"]
