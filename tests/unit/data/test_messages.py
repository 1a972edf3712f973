"""Messages as rows write them, in the one form that a chat template reads."""

from __future__ import annotations

import pytest

from hone.data.chat import Encoder
from hone.data.formats import Format, PromptText
from hone.errors import DataError
from tests.helpers.conversations import ANSWER, ASK, OBJECTS, RESULT, call, with_template

TEXTS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' and m.content is none %}"
    "{% for c in m.tool_calls %}{{ '<call>' + c.function.name + ' ' + c.function.arguments + '</call>' }}"
    "{% endfor %}{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
)
"""As DeepSeek-R1: arguments are text, and a call is only seen where the content beside it is null."""


def text_of(tokenizer, messages):
    return Encoder(tokenizer).render(Format().supervised({"messages": messages})).text


@pytest.mark.parametrize("template", [OBJECTS, TEXTS])
@pytest.mark.parametrize("arguments", [{"city": "Zürich", "n": 2}, '{"city": "Zürich", "n": 2}'])
def test_arguments_are_written_once_as_json_in_either_form(chatml, template, arguments):
    written = text_of(with_template(chatml, template), [ASK, call(arguments), RESULT, ANSWER])
    assert '<call>f {"city": "Zürich", "n": 2}</call>' in written


def test_older_forms_of_a_call_are_the_same_call(chatml):
    tokenizer = with_template(chatml, OBJECTS)
    wanted = text_of(tokenizer, [ASK, call({"a": 1}), RESULT, ANSWER])
    legacy = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a": 1}'}}
    flat = {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {"a": 1}}]}
    own = {"role": "function_call", "content": '{"name": "f", "arguments": {"a": 1}}'}
    for said in (legacy, flat, own):
        assert text_of(tokenizer, [ASK, said, {**RESULT, "role": "observation"}, ANSWER]) == wanted


def test_a_function_call_of_sharegpt_is_a_target(chatml):
    talk = [
        {"from": "human", "value": "What is 2?"},
        {"from": "function_call", "value": '{"name": "f", "arguments": {}}'},
        {"from": "observation", "value": "the answer is 12"},
        {"from": "gpt", "value": "It is 12."},
    ]
    rendered = Encoder(with_template(chatml, OBJECTS)).render(Format().supervised({"conversations": talk}))
    said = [rendered.text[start:end] for start, end in rendered.spans]
    assert said == [
        "<|im_start|>assistant\n<call>f {}</call><|im_end|>",
        "<|im_start|>assistant\nIt is 12.<|im_end|>",
    ]


@pytest.mark.parametrize("arguments", ["{broken", '"text"', [1]])
def test_arguments_that_are_no_object_are_refused_by_name(chatml, arguments):
    with pytest.raises(DataError, match=r"messages\[1\]: the arguments of tool call f"):
        text_of(with_template(chatml, OBJECTS), [ASK, call(arguments), RESULT, ANSWER])


@pytest.mark.parametrize("role", ["human", "User", "prompter"])
def test_other_names_of_roles_are_known(chatml, role):
    said = [{"role": role, "content": "What is 2?"}, {"role": "model", "content": "It is 12."}]
    assert text_of(chatml, said) == text_of(chatml, [ASK, ANSWER])


def test_a_role_that_nobody_knows_is_named_with_those_that_were_found(chatml):
    talk = [ASK, {"role": "critic", "content": "Wrong."}, ANSWER]
    with pytest.raises(
        DataError, match=r"message 1 has the role 'critic'.*roles found: user, critic, assistant"
    ):
        text_of(chatml, talk)
    knows = with_template(chatml, chatml.chat_template + "{% if messages[1].role == 'critic' %}{% endif %}")
    assert "<|im_start|>critic\nWrong." in text_of(knows, talk)


def test_developer_is_system_for_a_template_that_does_not_know_it(chatml):
    developer = {"role": "developer", "content": "Be brief."}
    assert text_of(chatml, [developer, ASK, ANSWER]).startswith("<|im_start|>system\nBe brief.")


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


PARTS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% for part in m.content %}{{ part.text }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.parametrize("wants_parts", [False, True])
def test_parts_of_text_are_the_text(chatml, wants_parts):
    """Qwen3's template leaves out content that is no text; those of some vision models leave out content that is."""
    tokenizer = with_template(chatml, PARTS) if wants_parts else chatml
    split = [{**ASK, "content": parts("What ", "is 2?")}, {**ANSWER, "content": parts("It is 12.")}]
    assert text_of(tokenizer, split) == text_of(chatml, [ASK, ANSWER])
    encoder = Encoder(tokenizer)
    asked = encoder.encode_prompts([encoder.render_prompt(PromptText(split[:1]))])
    assert tokenizer.decode(asked[0]) == "<|im_start|>user\nWhat is 2?<|im_end|>\n<|im_start|>assistant\n"


def test_parts_that_are_no_text_are_refused_by_name(chatml):
    image = {**ASK, "content": [*parts("See "), {"type": "image_url", "image_url": {"url": "x"}}]}
    with pytest.raises(DataError, match=r"messages\[0\]: its content has a part of type 'image_url'"):
        Format().supervised({"messages": [image, ANSWER]})
    with pytest.raises(DataError, match=r"prompt\[0\]: its content has a part of type 'image_url'"):
        Format().prompt({"prompt": [image]})


def test_what_a_function_returned_is_json(chatml):
    result = {"role": "tool", "content": [{"temp": 3}]}
    assert '<|im_start|>tool\n[{"temp": 3}]<|im_end|>' in text_of(
        with_template(chatml, OBJECTS), [ASK, call({}), result, ANSWER]
    )


def test_reasoning_is_given_under_the_name_that_the_template_reads(chatml):
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.reasoning_content %}"
        "{{ '<think>' + m.reasoning_content + '</think>' }}{% elif m.role == 'assistant' %}{{ '<think></think>' }}"
        "{% endif %}{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    )
    tokenizer = with_template(chatml, template)
    for said in (
        {"reasoning": "hm"},
        {"reasoning_content": "hm"},
        {"content": "<think>\nhm\n</think>\n\nIt is 12."},
    ):
        assert "assistant\n<think>hm</think>It is 12.<|im_end|>" in text_of(
            tokenizer, [ASK, {**ANSWER, **said}]
        )
