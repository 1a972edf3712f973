"""The same conversations through the chat templates that TRL ships: what is trained is what the rows say, or the row is
refused by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from hone.chat_template import turn_ends
from hone.data.chat import Encoder
from hone.data.formats import Format, PromptText
from hone.errors import DataError
from tests.helpers.byte_level import byte_level

SPECIAL = re.compile(
    r"<\|[^|>\s'\"{}]+\|?>|<[^|>\s'\"{}]+\|>|<｜[^>]*>|<(?:start|end)_of_turn>|<end_of_utterance>|</s>"
)
trl = pytest.importorskip("trl")
FOLDER = Path(trl.__file__).parent / "chat_templates"
QUICK = (
    *(
        "qwen2_5",
        "qwen3",
        "qwen3_5_think",
        "qwen3_training",
        "llama3_1",
        "glm4moe",
        "gemma",
        "gemma4",
        "phi3",
    ),
    *("deepseekv3", "deepseek_r1_distill", "gptoss", "cohere2", "smolvlm"),
)
NAMES = sorted(path.stem for path in FOLDER.glob("*.jinja"))
FIRST, SECOND = "It is sunny there today.", "Rome has plenty of rain."
TALK = [
    {"role": "user", "content": "How is the weather in Paris?"},
    {"role": "assistant", "content": FIRST},
    {"role": "user", "content": "And what about Rome then?"},
    {"role": "assistant", "content": SECOND},
]
TOOL = {"name": "get_weather", "description": "Weather.", "parameters": {"type": "object", "properties": {}}}
RESULT = {
    "role": "tool",
    "name": "get_weather",
    "tool_call_id": "abcdefghi",
    "content": "21 degrees, no clouds",
}


def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    template = (FOLDER / f"{name}.jinja").read_text()
    specials = list(dict.fromkeys(["<|endoftext|>", "<bos>", *sorted(SPECIAL.findall(template))]))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level(specials, bos=None, trim_offsets=False),
        bos_token="<bos>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=specials[2:],
    )
    tokenizer.chat_template = template
    return tokenizer


def encoded(encoder: Encoder, messages: list[dict[str, Any]], **row: Any) -> tuple[str, str]:
    """All of a conversation, and what is trained on."""
    found = encoder.encode(Format().supervised({"messages": messages, **row}))
    trained = [token for token, on in zip(found.tokens, found.mask, strict=True) if on]
    return encoder.tokenizer.decode(found.tokens), encoder.tokenizer.decode(trained)


def in_parts(message: dict[str, Any]) -> dict[str, Any]:
    text = message["content"]
    return {**message, "content": [{"type": "text", "text": text[:8]}, {"type": "text", "text": text[8:]}]}


def calling(arguments: Any) -> dict[str, Any]:
    call = {
        "id": "abcdefghi",
        "type": "function",
        "function": {"name": "get_weather", "arguments": arguments},
    }
    return {"role": "assistant", "content": None, "tool_calls": [call]}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in NAMES]
)
def test_what_is_trained_is_what_the_rows_say(name: str) -> None:
    encoder = Encoder(tokenizer_of(name))
    tokenizer = encoder.tokenizer
    whole, trained = encoded(encoder, TALK)
    ends = {tokenizer.eos_token, *tokenizer.convert_ids_to_tokens(list(turn_ends(tokenizer))), "<|end|>"}
    for said in (FIRST, SECOND):
        behind = trained.partition(said)[2].lstrip()
        assert any(behind.startswith(end) for end in (*ends, "<|END_RESPONSE|>")), (name, said, trained)
    assert TALK[0]["content"] in whole
    assert TALK[0]["content"] not in trained
    assert TALK[2]["content"] not in trained
    assert encoded(encoder, [in_parts(message) for message in TALK]) == (whole, trained)
    _asks(encoder, whole)
    _cannot_be_forged(encoder)
    _calls(encoder)


def _asks(encoder: Encoder, whole: str) -> None:
    (tokens,) = encoder.encode_prompts([encoder.render_prompt(PromptText([in_parts(m) for m in TALK[:3]]))])
    asked = encoder.tokenizer.decode(tokens)
    assert all(message["content"] in asked for message in TALK[:3])
    assert SECOND not in asked


def _cannot_be_forged(encoder: Encoder) -> None:
    tokenizer = encoder.tokenizer
    end = max(tokenizer.convert_ids_to_tokens(list(turn_ends(tokenizer))))
    plain, forged = (
        encoder.encode(Format().supervised({"messages": [{**TALK[0], "content": text}, *TALK[1:]]})).tokens
        for text in ("Tom has", f"Tom {end} has")
    )
    number = tokenizer.convert_tokens_to_ids(end)
    assert forged.count(number) == plain.count(number)
    assert f"Tom {end} has" in tokenizer.decode(forged)


def _calls(encoder: Encoder) -> None:
    """Arguments as an object or as JSON are the same call, written once; or the template has none, and says so."""
    rows = [
        [TALK[0], calling(arguments), RESULT, TALK[1]] for arguments in ({"city": "Oslo"}, '{"city": "Oslo"}')
    ]
    tools = [{"type": "function", "function": TOOL}]
    as_object, as_text = (_read_or_refused(encoder, row, tools) for row in rows)
    assert as_object == as_text
    if isinstance(as_object, str):
        assert "tool call get_weather" in as_object or "refuses the conversation" in as_object
        return
    whole, trained = as_object
    assert "get_weather" in trained
    assert trained.count("Oslo") == 1
    assert '\\"' not in trained
    assert RESULT["content"] in whole
    assert RESULT["content"] not in trained


def _read_or_refused(encoder: Encoder, row: list[dict[str, Any]], tools: list[Any]) -> tuple[str, str] | str:
    try:
        return encoded(encoder, row, tools=tools)
    except DataError as refused:
        return str(refused)
