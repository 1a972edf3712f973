"""Tool calls in the forms that models write: read, run in order, told of where broken, and never out of a thought."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from hone.errors import ConfigError
from hone.model.loading import load_tokenizer
from hone.rollout.environments.tool_calls import message_of
from tests.unit.rollout.environments.test_turn_tokens import TOOL, dialog

SCHEMA = {
    "type": "function",
    "function": {
        "name": "find",
        "description": "Find something.",
        "parameters": {
            "type": "object",
            "properties": {
                "what": {"type": "string"},
                "most": {"type": "integer"},
                "near": {"type": "array"},
            },
        },
    },
}
PARIS, ROME = {"what": "Paris", "most": 3}, {"what": "12", "near": ["a", "b"]}
BOTH = [("find", PARIS), ("find", ROME)]


def said(text: str, before: str = "", schemas: Any = (SCHEMA,)) -> dict[str, Any]:
    tokenizer = load_tokenizer("hone/tiny")
    prefix = tokenizer(before, add_special_tokens=False)["input_ids"]
    return message_of(tokenizer, text, [], prefix, list(schemas))


def calls(text: str, before: str = "") -> list[tuple[str, Any]]:
    found = said(text, before).get("tool_calls", [])
    return [
        (call["function"]["name"], call["error"] if "error" in call else call["function"]["arguments"])
        for call in found
    ]


def hermes(arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': 'find', 'arguments': arguments})}\n</tool_call>"


def qwen(**arguments: str) -> str:
    parameters = "".join(f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in arguments.items())
    return f"<tool_call>\n<function=find>\n{parameters}</function>\n</tool_call>"


PARIS_JSON, ROME_JSON = json.dumps(PARIS), json.dumps(ROME)
CALL_JSON = [json.dumps({"name": "find", "parameters": arguments}) for arguments in (PARIS, ROME)]
FORMS = {
    "Hermes": hermes(PARIS) + "\n" + hermes(ROME),
    "Hermes, two in one": f"<tool_call>\n{CALL_JSON[0]}\n{CALL_JSON[1]}\n</tool_call>",
    "Granite": f"<|tool_call|>[{CALL_JSON[0]}, {CALL_JSON[1]}]",
    "Qwen 3.5": qwen(what="Paris", most="3") + "\n" + qwen(what="12", near='["a", "b"]'),
    "Llama 3.1, functions": f"<function=find>{PARIS_JSON}</function>\n<function=find>{ROME_JSON}</function>",
    "GLM 4.5": "<tool_call>find\n<arg_key>what</arg_key>\n<arg_value>Paris</arg_value>\n<arg_key>most</arg_key>\n"
    "<arg_value>3</arg_value>\n</tool_call>\n<tool_call>find\n<arg_key>what</arg_key>\n<arg_value>12</arg_value>\n"
    '<arg_key>near</arg_key>\n<arg_value>["a", "b"]</arg_value>\n</tool_call>',
    "Mistral": f"[TOOL_CALLS][{CALL_JSON[0]}, {CALL_JSON[1]}]",
    "Mistral 3": f"[TOOL_CALLS]find[ARGS]{PARIS_JSON}[TOOL_CALLS]find[CALL_ID]abc[ARGS]{ROME_JSON}</s>",
    "Llama 3": "; ".join(CALL_JSON),
    "Llama 3, lines": "\n".join(CALL_JSON),
    "Llama 3, python tag": f"<|python_tag|>{'; '.join(CALL_JSON)}<|eom_id|>",
    "Llama 3, built in": "<|python_tag|>find.call(what='Paris', most=3), "
    "find.call(what='12', near=['a', 'b'])<|eom_id|>",
    "Llama 4": "[find(what='Paris', most=3), find(what=\"12\", near=['a', 'b'])]",
    "LFM 2": "<|tool_call_start|>[find(what='Paris', most=3), find(what='12', near=['a', 'b'])]<|tool_call_end|>",
    "Gemma 4": '<|tool_call>call:find{what:<|"|>Paris<|"|>,most:3}<tool_call|><|tool_call>call:find{what:<|"|>12<|"|>,'
    'near:[<|"|>a<|"|>,<|"|>b<|"|>]}<tool_call|><|tool_response>',
    "gpt-oss": "<|channel|>analysis<|message|>I call functions.find<|end|><|start|>assistant<|channel|>commentary "
    f"to=functions.find <|constrain|>json<|message|>{PARIS_JSON}<|call|><|start|>assistant to=functions.find"
    f"<|channel|>commentary json<|message|>{ROME_JSON}<|call|>",
    "DeepSeek 3": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>find\n```json\n"
    f"{PARIS_JSON}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>find\n```json\n{ROME_JSON}\n"
    "```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>",
    "DeepSeek 3.1": f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>find<｜tool▁sep｜>{PARIS_JSON}<｜tool▁call▁end｜>"
    f"<｜tool▁call▁begin｜>find<｜tool▁sep｜>{ROME_JSON}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "Kimi": f"<|tool_calls_section_begin|><|tool_call_begin|>functions.find:0<|tool_call_argument_begin|>{PARIS_JSON}"
    f"<|tool_call_end|><|tool_call_begin|>functions.find:1<|tool_call_argument_begin|>{ROME_JSON}<|tool_call_end|>",
    "MiniMax": '<minimax:tool_call>\n<invoke name="find">\n<parameter name="what">Paris</parameter>\n<parameter '
    'name="most">3</parameter>\n</invoke>\n<invoke name="find">\n<parameter name="what">12</parameter>\n<parameter '
    'name="near">["a", "b"]</parameter>\n</invoke>\n</minimax:tool_call>',
    "Command R": '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "find", "parameters": '
    f'{PARIS_JSON}}}, {{"tool_call_id": "1", "tool_name": "find", "parameters": {ROME_JSON}}}]<|END_ACTION|>',
}


@pytest.mark.parametrize("form", FORMS)
def test_every_call_of_a_message_is_read_in_order(form: str) -> None:
    assert calls(FORMS[form]) == BOTH


@pytest.mark.parametrize("form", FORMS)
def test_a_call_in_a_thought_is_none_and_hides_none(form: str) -> None:
    text = FORMS[form]
    if form in ("Llama 3", "Llama 3, lines", "Llama 4"):  # calls only where they are all of the message
        assert calls(f"<think>{text}") == []
        return
    assert calls(f"<think>I could {text}") == []
    assert calls(f"I could {text}", before="<|im_start|>assistant\n<think>\n") == []
    assert calls(f"<think>{text}</think>The answer is 4.") == []
    assert calls(f"<think>not {hermes({'what': 'Oslo'})}</think>\n{text}") == BOTH
    assert calls(f"not <tool_call> yet</think>\n{text}", before="<|im_start|>assistant\n<think>\n") == BOTH


def test_a_single_call_after_its_name_is_parsed() -> None:
    assert calls(f"find\n{PARIS_JSON}<|observation|>") == [("find", PARIS)]
    assert calls(f"lose\n{PARIS_JSON}") == []


@pytest.mark.parametrize(
    "end", ["<|eom_id|>", "<|eot_id|>", "<|im_end|>\n", "</s>", "<|im_end|><|endoftext|>"]
)
def test_what_ends_the_turn_is_no_part_of_a_call(end: str) -> None:
    assert calls(CALL_JSON[0] + end) == [("find", PARIS)]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (hermes(PARIS) + "<tool_call>{'name': 'find'}</tool_call>" + hermes(ROME), "is not JSON"),
        (
            qwen(what="Paris", most="3") + qwen(what="x")[:-40] + "</tool_call>" + hermes(ROME),
            "has no </function>",
        ),
        (
            f"[TOOL_CALLS]find[ARGS]{PARIS_JSON}[TOOL_CALLS]find[ARGS]{{what}}[TOOL_CALLS]find[ARGS]{ROME_JSON}",
            "not JSON",
        ),
        (f'[TOOL_CALLS][{CALL_JSON[0]}, {{"arguments": {{}}}}, {CALL_JSON[1]}]', "needs a name"),
        ("[find(what='Paris', most=3), find('x'), find(what='12', near=['a', 'b'])]", "by keyword"),
        (hermes(PARIS) + hermes([1]) + hermes(ROME), "are not a JSON object"),
    ],
)
def test_a_broken_call_takes_no_good_one_with_it(text: str, error: str) -> None:
    first, broken, last = calls(text)
    assert (first, last) == tuple(BOTH)
    assert error in broken[1]


@pytest.mark.parametrize(
    "text",
    [
        "The answer is {4}.",
        '{"name": "Ada", "born": 1815}',
        "to=functions",
        "[1, 2]",
        "find it",
        "",
        "<think>",
        "a [b](c)",
    ],
)
def test_text_without_a_call_is_content(text: str) -> None:
    assert said(text) == {"role": "assistant", "content": text}


def test_python_is_read_and_never_run() -> None:
    [(name, error)] = calls("<|tool_call_start|>[find(what=open('/etc/passwd').read())]<|tool_call_end|>")
    assert (name, error) == ("find", "an argument of find is not a literal")


@pytest.mark.parametrize(
    "hostile",
    [
        *(
            "[",
            "{",
            "(",
            "<tool_call>",
            "<function=",
            "<parameter=",
            "[TOOL_CALLS]",
            '<invoke name="f">',
            "<think>",
        ),
        *(
            "</think>",
            "<|tool_call>call:",
            '<|"|>',
            "<|python_tag|>",
            "<|tool_call_start|>",
            "to=functions.f",
        ),
    ],
)
def test_hostile_text_takes_bounded_time(hostile: str) -> None:
    text = hostile * (200_000 // len(hostile))
    start = time.process_time()
    for each in (
        text,
        f"<tool_call>{text}</tool_call>",
        f"<|tool_call_start|>{text}",
        f"<|tool_call>call:f{{{text}}}",
    ):
        said(each)
    assert time.process_time() - start < 4.0


# ---- the check: a call that the template writes must come back

TELLS = (
    *(
        "qwen2_5",
        "qwen3",
        "qwen3_5_think",
        "qwen3_5_nothink",
        "llama3_1",
        "glm4moe",
        "gptoss",
        "lfm2_v2",
        "gemma4",
    ),
    *("nemotron_3_nano",),
)
SPECIALS = {
    "llama3_1": ("<|eot_id|>", "<|eom_id|>", "<|start_header_id|>"),
    "glm4moe": ("<|user|>", "<|assistant|>", "<|observation|>"),
    "gptoss": ("<|return|>", "<|call|>", "<|end|>", "<|start|>", "<|channel|>", "<|message|>"),
    "gemma4": ("<turn|>", "<|turn>", "<|tool_response>"),
}


def templates() -> Path:
    return Path(pytest.importorskip("trl").__file__).parent / "chat_templates"


@pytest.mark.parametrize("name", TELLS)
def test_a_call_of_other_models_templates_comes_back(name: str) -> None:
    found = dialog(str(templates() / f"{name}.jinja"), *SPECIALS.get(name, ()), schemas=(SCHEMA,))
    found.check(["tool"])
    assert "forty-two" in found.encoder.tokenizer.decode(found.between([TOOL], 5))


def test_a_turn_that_hands_over_to_a_tool_is_not_ended_twice() -> None:
    llama = dialog(str(templates() / "llama3_1.jinja"), *SPECIALS["llama3_1"])
    tokenizer = llama.encoder.tokenizer
    after = [
        llama.between([TOOL], tokenizer.convert_tokens_to_ids(end)) for end in ("<|eot_id|>", "<|eom_id|>")
    ]
    assert after[0] == after[1]
    assert tokenizer.decode(after[0]).startswith("<|start_header_id|>ipython")
    glm = dialog(str(templates() / "glm4moe.jinja"), *SPECIALS["glm4moe"])
    tokenizer = glm.encoder.tokenizer
    for end, behind in (
        ("<|observation|>", "\n<tool_response>"),
        ("<|user|>", "<|observation|>\n<tool_response>"),
    ):
        after = glm.between([TOOL], tokenizer.convert_tokens_to_ids(end))
        assert tokenizer.decode(after).startswith(behind)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("", "in which Hone does not find the call"),
        (
            "CALL {{ c.function.name }} WITH {{ c.function.arguments | tojson }}",
            "writes a call of the tool find as 'CALL",
        ),
        (
            "<tool_call>{{ c.function.arguments | tojson }}</tool_call>",
            "in which Hone does not find the call",
        ),
        ("{{ raise_exception('no calls') }}", "no calls"),
    ],
)
def test_a_template_whose_calls_are_not_read_is_refused(written: str, said: str) -> None:
    template = (
        "{% for t in tools %}{{ t.function.name }}{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ m.content }}{% for c in m.tool_calls or [] %}" + written + "{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    with pytest.raises(ConfigError, match=said):
        dialog(template, schemas=(SCHEMA,)).check(["tool"])
