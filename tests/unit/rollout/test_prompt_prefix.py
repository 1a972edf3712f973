"""What a prompt has begun of its answer counts as part of it."""

from __future__ import annotations

import asyncio

import pytest

from hone.data.chat import Encoder
from hone.data.formats import PromptText
from hone.model.loading import load_tokenizer
from hone.rollout.prompt_prefix import prefills_of
from hone.rollout.rewards.functions.builtin import BUILTIN
from hone.rollout.rewards.resolve import resolve_all
from hone.rollout.rewards.reward_pool import RewardPool
from hone.rollout.scoring import score_completions
from hone.types import Completion, Prompt

ASKED = {"role": "user", "content": "Put the result in <answer></answer>. 2 + 3?"}


@pytest.fixture(scope="module")
def plain():
    return load_tokenizer("hone/tiny-sft")


def thinking(tokenizer, opening: str):
    """The tokenizer, with a template that begins each answer with a text."""
    tokenizer = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token=tokenizer.eos_token)
    turns = "{%- for m in messages -%}{{- '<|im_start|>' + m['role'] + '\\n' + m['content'] -}}{%- endfor -%}"
    opened = "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n" + opening + "' -}}{%- endif -%}"
    tokenizer.chat_template = turns + opened
    return tokenizer


def prompt_of(tokenizer, content) -> Prompt:
    encoder = Encoder(tokenizer)
    [tokens] = encoder.encode_prompts([encoder.render_prompt(PromptText(content, None, {}))])
    return Prompt("p", tuple(tokens), content, {"answer": "5"})


@pytest.mark.parametrize("opening", ["", "<think>\\n", "<think>\\n\\n</think>\\n\\n", "<reasoning>"])
def test_the_tag_that_a_template_opens_is_a_prefill(plain, opening: str) -> None:
    tokenizer = thinking(plain, opening)
    assert prefills_of([prompt_of(tokenizer, [ASKED])], tokenizer) == [opening.replace("\\n", "\n")]


@pytest.mark.parametrize(
    ("content", "begun"),
    [
        ("Put it in <answer></answer>", ""),
        ("Assistant: <think>", "<think>"),
        ("Think first.\n<think>\n", "<think>\n"),
        ("Write it.\n```python\n", "```python\n"),
        ("Write ```python\n", ""),
        (r"Question: 2 + 3? The answer is \boxed{", r"\boxed{"),
        ([ASKED, {"role": "assistant", "content": "<think>Let me see."}], "<think>Let me see."),
        ([ASKED], ""),
    ],
)
def test_the_beginning_of_an_answer_is_found_in_a_prompt(plain, content, begun: str) -> None:
    assert prefills_of([prompt_of(plain, content)], plain) == [begun]


def test_format_and_answers_are_judged_with_what_the_prompt_began(plain) -> None:
    tokenizer = thinking(plain, "<think>\\n")
    texts = ["2 + 3 = 5</think><answer>5</answer>", "<think>2 + 3 = 5</think><answer>5</answer>"]
    answers = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    completions = [Completion.of_version(tuple(ids), (-1.0,) * len(ids), "stop", 0) for ids in answers]
    entries = ["format", "answer", {"name": "own", "path": "regex", "kwargs": {"pattern": "^<think>\n2"}}]
    with RewardPool(resolve_all(entries), num_workers=1) as pool:
        prompt = prompt_of(tokenizer, [ASKED])
        [group] = asyncio.run(score_completions([prompt], [completions], tokenizer, pool))
    assert [rollout.rewards for rollout in group.rollouts] == [
        {"format": 1.0, "answer": 1.0, "own": 1.0},
        {"format": 0.0, "answer": 1.0, "own": 0.0},
    ]


@pytest.mark.parametrize(
    ("name", "prefill", "completion", "more"),
    [
        ("answer", "<answer>", "5</answer>", {}),
        ("math", r"\boxed{", "5}", {}),
        ("exact", "<think>", "hm</think>5", {}),
        ("json_schema", "```json\n", "5\n```", {"schema": {"type": "number"}}),
        ("json_schema", "<think>", "{}</think>5", {"schema": {"type": "number"}}),
    ],
)
def test_each_function_reads_on_from_there(name: str, prefill: str, completion: str, more: dict) -> None:
    assert BUILTIN[name]([completion], prefills=[prefill], answer=["5"], **more) == [1.0]
