"""Tokens and masks, worked out by hand for the usual chat templates."""

from __future__ import annotations

import copy

import pytest

from hone.data.assistant_spans import overlap
from hone.data.chat import Encoder
from hone.data.formats import Example, Format, PromptText
from hone.errors import ConfigError, DataError

ASK, ANSWER = {"role": "user", "content": "What is 2?"}, {"role": "assistant", "content": "It is 12."}
MORE, FINAL = {"role": "user", "content": "Thanks!"}, {"role": "assistant", "content": "You are welcome."}
TWO_TURNS = [ASK, ANSWER, MORE, FINAL]


def pieces(tokenizer, encoded):
    """The sample as (text, is target) runs."""
    runs: list[list] = []
    for token, target in zip(encoded.tokens, encoded.mask, strict=True):
        if not runs or runs[-1][1] != target:
            runs.append([[], target])
        runs[-1][0].append(token)
    return [(tokenizer.decode(tokens), target) for tokens, target in runs]


def targets(tokenizer, row, **options):
    """The texts of the runs of targets."""
    return [text for text, target in pieces(tokenizer, encode(tokenizer, row, **options)) if target]


def encode(tokenizer, row, **options):
    return Encoder(tokenizer, **options).encode(Format(chat=bool(tokenizer.chat_template)).supervised(row))


@pytest.mark.parametrize("name", ["chatml", "marked"])
def test_chatml_all_assistant_turns_with_their_end_tokens(name, request):
    tokenizer = request.getfixturevalue(name)
    assert pieces(tokenizer, encode(tokenizer, {"messages": TWO_TURNS})) == [
        ("<|im_start|>user\nWhat is 2?<|im_end|>\n<|im_start|>assistant\n", False),
        ("It is 12.<|im_end|>", True),
        ("\n<|im_start|>user\nThanks!<|im_end|>\n<|im_start|>assistant\n", False),
        ("You are welcome.<|im_end|>", True),
        ("\n", False),
    ]


@pytest.mark.parametrize("name", ["chatml", "marked"])
def test_chatml_only_the_final_turn(name, request):
    tokenizer = request.getfixturevalue(name)
    targets = [
        t
        for t, on in pieces(tokenizer, encode(tokenizer, {"messages": TWO_TURNS}, only_unmask_final=True))
        if on
    ]
    assert targets == ["You are welcome.<|im_end|>"]


@pytest.mark.parametrize("name", ["chatml", "marked", "llama3", "qwen3"])
def test_prompt_completion_trains_on_the_completion_only(name, request):
    tokenizer = request.getfixturevalue(name)
    (target,) = targets(tokenizer, {"prompt": TWO_TURNS[:3], "completion": TWO_TURNS[3:]})
    assert target.endswith("You are welcome." + tokenizer.eos_token)


def test_llama3(llama3):
    header = "<|start_header_id|>{}<|end_header_id|>\n\n"
    assert pieces(llama3, encode(llama3, {"messages": TWO_TURNS})) == [
        (
            "<|begin_of_text|>" + header.format("user") + "What is 2?<|eot_id|>" + header.format("assistant"),
            False,
        ),
        ("It is 12.<|eot_id|>", True),
        (header.format("user") + "Thanks!<|eot_id|>" + header.format("assistant"), False),
        ("You are welcome.<|eot_id|>", True),
    ]


def test_llama3_white_space_tokens_at_the_border_belong_to_where_they_stand(llama3):
    """Its tokenizer gives white space empty offsets."""
    encoded = encode(llama3, {"messages": [ASK, {"role": "assistant", "content": "a\n\n b \n c"}]})
    assert pieces(llama3, encoded)[-1] == ("a\n\n b \n c<|eot_id|>", True)


def test_qwen3_drops_the_reasoning_of_earlier_turns_and_the_mask_follows(qwen3):
    thinking = [
        ASK,
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nIt is 12."},
        MORE,
        {"role": "assistant", "content": "<think>\nso\n</think>\n\nYou are welcome."},
    ]
    assert pieces(qwen3, encode(qwen3, {"messages": thinking})) == [
        ("<|im_start|>user\nWhat is 2?<|im_end|>\n<|im_start|>assistant\n", False),
        ("It is 12.<|im_end|>", True),
        ("\n<|im_start|>user\nThanks!<|im_end|>\n<|im_start|>assistant\n", False),
        ("<think>\nso\n</think>\n\nYou are welcome.<|im_end|>", True),
        ("\n", False),
    ]


def test_what_the_generation_prompt_brings_is_no_target(qwen3):
    thinking = encode(qwen3, {"messages": TWO_TURNS[:2]})
    assert pieces(qwen3, thinking)[1] == ("<think>\n\n</think>\n\nIt is 12.<|im_end|>", True)
    without = encode(qwen3, {"messages": TWO_TURNS[:2]}, template_kwargs={"enable_thinking": False})
    assert pieces(qwen3, without)[1] == ("It is 12.<|im_end|>", True)
    assert thinking.tokens == without.tokens
    row = {"messages": TWO_TURNS[:2], "chat_template_kwargs": {"enable_thinking": False}}
    assert encode(qwen3, row) == without


def test_a_tool_turn_is_context_and_calls_are_targets(chatml):
    template = (
        "{% if tools %}{{ '<|im_start|>system\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}"
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
        "{% for c in m.tool_calls or [] %}{{ '<call>' + c.function.name + '</call>' }}{% endfor %}"
        "{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "f", "arguments": {}}}],
    }
    row = {"messages": [ASK, call, {"role": "tool", "content": "12"}, ANSWER], "tools": '[{"name": "f"}]'}
    tokenizer = with_template(chatml, template)
    runs = pieces(tokenizer, encode(tokenizer, row))
    assert runs[0][0].startswith('<|im_start|>system\n[{"name": "f"}]<|im_end|>')
    assert [t for t, on in runs if on] == ["<call>f</call><|im_end|>", "It is 12.<|im_end|>"]


def test_a_last_turn_that_is_closed_otherwise(chatml):
    """Phi-3 ends a conversation with EOS in place of the next opening."""
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
        "{% else %}{{ '<|endoftext|>' }}{% endif %}"
    )
    tokenizer = with_template(chatml, template)
    assert targets(tokenizer, {"messages": TWO_TURNS}) == [
        "It is 12.<|im_end|>",
        "You are welcome.<|im_end|>\n<|endoftext|>",
    ]


def test_a_last_turn_that_ends_in_another_token(chatml):
    """gpt-oss closes the very last turn with <|return|>, all others with <|end|>."""
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
        "{% if loop.last and m.role == 'assistant' and not add_generation_prompt %}{{ '<|endoftext|>' }}"
        "{% else %}{{ '<|im_end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    found = targets(with_template(chatml, template), {"messages": TWO_TURNS})
    assert found == ["It is 12.<|im_end|>", "You are welcome.<|endoftext|>"]


def test_turns_between_tools_whose_reasoning_is_dropped_later(qwen3):
    """Before the second question, turn 3 follows a turn that was still rendered with its reasoning."""
    talk = [
        ASK,
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nI ask."},
        {"role": "tool", "content": "12"},
        {"role": "assistant", "content": "<think>\nso\n</think>\n\nIt is 12."},
        MORE,
        FINAL,
    ]
    assert targets(qwen3, {"messages": talk}) == [
        "I ask.<|im_end|>",
        "It is 12.<|im_end|>",
        "<think>\n\n</think>\n\nYou are welcome.<|im_end|>",
    ]


def test_a_last_turn_that_the_template_leaves_open_gets_eos(chatml):
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ '<|im_start|>' + m.content + '<|endoftext|>' }}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    tokenizer = with_template(chatml, template)
    assert targets(tokenizer, {"messages": TWO_TURNS}) == [
        "It is 12.<|im_start|>",
        "You are welcome.<|im_end|>",
    ]
    assert targets(tokenizer, {"messages": TWO_TURNS}, add_eos=False)[-1] == "You are welcome."
    assert targets(tokenizer, {"messages": TWO_TURNS[:3]}) == ["It is 12.<|im_start|>"]


def test_a_generation_prompt_that_opens_what_the_turn_does_not_have(chatml):
    """DeepSeek-R1 and Qwen3-Thinking open <think> for the model; answers without reasoning have none."""
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
    )
    tokenizer = with_template(chatml, template)
    both = ["It is 12.<|im_end|>", "You are welcome.<|im_end|>"]
    assert targets(tokenizer, {"messages": TWO_TURNS}) == both
    thought = {"role": "assistant", "content": "<think>\nhm\n</think>\nYes."}
    assert targets(tokenizer, {"messages": [ASK, thought]}) == ["hm\n</think>\nYes.<|im_end|>"]


def test_earlier_turns_in_words_alone_that_read_otherwise_once_others_follow(plain):
    template = (
        "{% for m in messages %}{{ m.role + ': ' }}"
        "{% if loop.last and m.role == 'assistant' %}{{ '[last] ' }}{% endif %}{{ m.content + '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    tokenizer = with_template(plain, template)
    found = targets(tokenizer, {"messages": TWO_TURNS})
    assert [t.strip() for t in found] == ["It is 12.", "[last] You are welcome.\n<|im_end|>"]


def test_a_template_that_does_not_tell_is_an_error_with_a_fix(chatml):
    turn = "{% for m in messages %}{{ m.role + m.content | upper + '<|im_end|>' }}{% endfor %}"
    template = "{{ messages | length }}" + turn
    with pytest.raises(DataError, match=r"message 1 .* renders it differently .*{% generation %}"):
        encode(with_template(chatml, template), {"messages": TWO_TURNS})


def test_a_template_without_special_tokens_is_plain_text(metaspace):
    """`policy.tokenizer.chat_template: null` puts contents one after another."""
    tokenizer = with_template(metaspace, "{% for m in messages %}{{ m['content'] }}{% endfor %}")
    encoded = encode(tokenizer, {"messages": [{**ASK, "content": "the answer is "}, FINAL]})
    assert pieces(tokenizer, encoded)[-1] == ("You are welcome.</s>", True)
    prompt = Encoder(tokenizer).render_prompt(PromptText([{**ASK, "content": "the answer is "}]))
    tokens = Encoder(tokenizer).encode_prompts([prompt])[0]
    assert tokens[0] == tokenizer.bos_token_id
    assert encoded.tokens[: len(tokens)] == tokens


def test_no_chat_template(plain):
    with pytest.raises(DataError, match=r"no chat template: set policy.tokenizer.chat_template"):
        encode(plain, {"messages": TWO_TURNS})


def test_several_templates_without_a_default_ask_for_a_choice(chatml):
    tokenizer = with_template(chatml, {"tool_use": chatml.chat_template, "rag": chatml.chat_template})
    fix = r"several chat templates \(tool_use, rag\).*policy.tokenizer.chat_template=NAME"
    with pytest.raises(ConfigError, match=fix):
        encode(tokenizer, {"messages": TWO_TURNS})
    tokenizer = with_template(chatml, {"tool_use": chatml.chat_template, "default": chatml.chat_template})
    assert encode(tokenizer, {"messages": TWO_TURNS}) == encode(chatml, {"messages": TWO_TURNS})


def test_what_the_template_refuses_is_told(chatml):
    tokenizer = with_template(chatml, "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(DataError, match="refuses the conversation: roles must alternate"):
        encode(tokenizer, {"messages": TWO_TURNS})


def test_plain_completion_ends_with_eos_and_the_prompt_is_context(plain):
    encoded = encode(plain, {"prompt": "the answer", "completion": " is 12"})
    assert pieces(plain, encoded) == [("the answer", False), (" is 12<|im_end|>", True)]
    assert pieces(plain, encode(plain, {"prompt": "the answer", "completion": " is 12"}, add_eos=False))[
        -1
    ] == (" is 12", True)
    once = encode(plain, {"prompt": "the answer", "completion": " is 12<|im_end|>"})
    assert once == encoded


def test_plain_border_is_where_the_generator_will_stand(plain):
    """' is' would be one token across the border: the prompt keeps the tokens it has alone."""
    whole = plain("the answer is")["input_ids"]
    encoded = encode(plain, {"prompt": "the answer ", "completion": "is 12"})
    prompt = plain("the answer ")["input_ids"]
    assert whole[: len(prompt)] != prompt
    assert encoded.tokens[: len(prompt)] == prompt
    assert pieces(plain, encoded) == [("the answer ", False), ("is 12<|im_end|>", True)]


def test_text_is_all_target_but_the_first_token(plain, llama3):
    encoded = encode(plain, {"text": "the answer is 12"})
    assert encoded.mask == [False] + [True] * (len(encoded.tokens) - 1)
    assert encoded.tokens == [*plain("the answer is 12")["input_ids"], plain.eos_token_id]
    with_bos = encode(llama3, {"text": "the answer"})
    assert with_bos.tokens[0] == llama3.bos_token_id
    assert pieces(llama3, with_bos) == [("<|begin_of_text|>", False), ("the answer<|eot_id|>", True)]
    assert encode(llama3, {"text": "the answer"}, add_bos=False).tokens == with_bos.tokens[1:]
    assert encode(llama3, {"text": "<|begin_of_text|>the answer"}).tokens == with_bos.tokens


def test_truncation_is_reported_and_may_leave_no_target(chatml):
    whole = encode(chatml, {"messages": TWO_TURNS[:2]})
    start = whole.mask.index(True)
    cut = encode(chatml, {"messages": TWO_TURNS[:2]}, max_length=start + 1)
    assert (len(cut.tokens), cut.truncated, cut.has_target) == (start + 1, True, True)
    assert not encode(chatml, {"messages": TWO_TURNS[:2]}, max_length=start).has_target
    assert not encode(chatml, {"messages": TWO_TURNS[:2]}, max_length=len(whole.tokens)).truncated


def test_prompts_end_with_the_generation_prompt(chatml, llama3):
    encoder = Encoder(chatml)
    tokens = encoder.encode_prompts([encoder.render_prompt(PromptText([ASK]))])[0]
    assert chatml.decode(tokens) == "<|im_start|>user\nWhat is 2?<|im_end|>\n<|im_start|>assistant\n"
    assert encode(chatml, {"messages": TWO_TURNS[:2]}).tokens[: len(tokens)] == tokens
    closed = Encoder(chatml, add_generation_prompt=False)
    assert chatml.decode(closed.encode_prompts([closed.render_prompt(PromptText([ASK]))])[0]).endswith(
        "<|im_end|>\n"
    )
    begun = encoder.render_prompt(PromptText([ASK, {"role": "assistant", "content": "It is"}]))
    assert begun.text.endswith("assistant\nIt is")
    plain_text = Encoder(llama3)
    tokens = plain_text.encode_prompts([plain_text.render_prompt(PromptText("Tom has"))])[0]
    assert llama3.decode(tokens) == "<|begin_of_text|>Tom has"


def test_many_at_once_are_the_same_as_one_by_one(chatml):
    rows = [
        {"messages": TWO_TURNS},
        {"prompt": "the answer ", "completion": "is"},
        {"text": "Tom"},
        {"messages": TWO_TURNS[:2]},
    ]
    encoder = Encoder(chatml, max_length=20)
    examples = [Format().supervised(r) for r in rows]
    assert encoder.tokenize([encoder.render(e) for e in examples]) == [encoder.encode(e) for e in examples]


def test_a_slow_tokenizer_gets_the_same_masks(chatml):
    class Slow:
        is_fast = False

        def __getattr__(self, name):
            return getattr(chatml, name)

        def __call__(self, texts, **options):
            return chatml(texts, **options)

    assert encode(Slow(), {"messages": TWO_TURNS}) == encode(chatml, {"messages": TWO_TURNS})


def test_example_defaults():
    assert Example(completion="x").messages == ()


def with_template(tokenizer, template):
    import copy

    other = copy.copy(tokenizer)
    other.chat_template = template
    return other


def test_tokens_with_empty_offsets_stand_behind_the_token_before():
    """As a tokenizer that trims offsets gives them for 'ab  c' with the tokens ab, space, space, c."""
    offsets = [(0, 2), (3, 3), (4, 4), (4, 5)]
    assert overlap(offsets, [(2, 4)]) == [False, True, True, False]
    assert overlap(offsets, [(3, 5)]) == [False, False, True, True]
    assert overlap([], [(0, 1)]) == []


def test_an_answer_that_begins_like_the_generation_prompt_is_trained_from_its_first_character(chatml):
    opening = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
    tokenizer = copy.copy(chatml)
    tokenizer.chat_template = chatml.chat_template.partition("{% if add_generation_prompt")[0] + opening
    messages = [{"role": "user", "content": "Bold?"}, {"role": "assistant", "content": "<th>yes</th>"}]
    rendered = Encoder(tokenizer).render(Format().supervised({"messages": messages}))
    assert [rendered.text[start:end] for start, end in rendered.spans] == ["<th>yes</th><|im_end|>"]
