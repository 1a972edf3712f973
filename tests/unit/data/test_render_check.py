"""What a template loses is refused, what it leaves out on purpose is found; worked out by hand."""

from __future__ import annotations

import copy
import time

import pytest

from hone.data.chat import Encoder
from hone.data.finding_log import FindingLog
from hone.data.formats import Format, PromptText
from hone.data.render_check import check
from hone.errors import DataError
from tests.helpers.conversations import ANSWER, ASK, CALLS, OBJECTS, RESULT, call, with_template

MORE, FINAL = {"role": "user", "content": "Thanks!"}, {"role": "assistant", "content": "You are welcome."}
TWO_TURNS = [ASK, ANSWER, MORE, FINAL]
HEAD, TAIL = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}", "{{ '<|im_end|>\n' }}{% endfor %}"


def rendered(tokenizer, messages, **options):
    return Encoder(tokenizer, **options).render(Format().supervised({"messages": messages}))


def found(tokenizer, messages, **options):
    return [(f.message, f.part, f.what) for f in rendered(tokenizer, messages, **options).findings]


def targets(r):
    return [r.text[start:end] for start, end in r.spans]


def test_nothing_is_found_where_all_is_there(chatml, qwen3, marked, llama3):
    for tokenizer in (chatml, qwen3, marked, llama3):
        assert found(tokenizer, [{"role": "system", "content": "Be brief."}, *TWO_TURNS]) == []


def test_a_template_without_tools_does_not_train_an_empty_answer(chatml):
    tokenizer = with_template(chatml, CALLS + TAIL)
    with pytest.raises(DataError, match="does not write the tool call f of message 1"):
        rendered(tokenizer, [ASK, call({"city": "Paris"}), RESULT, ANSWER])


@pytest.mark.parametrize("dumped", ["c.function.arguments", "c.function.arguments | string | tojson"])
def test_arguments_as_python_writes_them_are_refused(chatml, dumped):
    one = "{% for c in m.tool_calls or [] %}{{ c.function.name ~ ' ' ~ (" + dumped + ") }}{% endfor %}"
    force = (
        "{% for c in m.tool_calls or [] %}{% if c.function.arguments is string %}{{ raise_exception('x') }}"
    )
    tokenizer = with_template(chatml, CALLS + force + "{% endif %}{% endfor %}" + one + TAIL)
    with pytest.raises(DataError, match="garbles the tool call f of message 1"):
        rendered(tokenizer, [ASK, call({"city": "Paris"}), RESULT, ANSWER])


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_a_message_that_a_template_leaves_out_is_refused(chatml, role):
    template = HEAD + "{% if m.role != '" + role + "' or loop.last %}{{ m.content }}{% endif %}" + TAIL
    with pytest.raises(DataError, match=rf"leaves out the content of message \d \({role}\)"):
        rendered(with_template(chatml, template), [{"role": "system", "content": "Be brief."}, *TWO_TURNS])


def test_it_is_refused_in_a_prompt_too(chatml):
    tokenizer = with_template(chatml, HEAD + "{% if m.role != 'system' %}{{ m.content }}{% endif %}" + TAIL)
    with pytest.raises(DataError, match=r"leaves out the content of message 0 \(system\)"):
        Encoder(tokenizer).render_prompt(PromptText([{"role": "system", "content": "Be brief."}, ASK]))


def test_reasoning_that_earlier_turns_lose_is_found(qwen3):
    thinking = [
        ASK,
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nIt is 12."},
        MORE,
        {"role": "assistant", "content": "<think>\nso\n</think>\n\nYou are welcome."},
    ]
    assert found(qwen3, thinking) == [(1, "reasoning", "dropped")]
    assert found(qwen3, thinking[:2]) == []


def test_text_that_is_written_twice_or_otherwise_is_found(chatml):
    long = {**ASK, "content": "How many apples does Tom have?\nTell me."}
    twice = HEAD + "{{ m.content }}{% if m.role == 'user' %}{{ m.content }}{% endif %}" + TAIL
    assert found(with_template(chatml, twice), [long, ANSWER]) == [(0, "content", "doubled")]
    cut = HEAD + "{{ m.content.splitlines()[0] }}" + TAIL
    assert found(with_template(chatml, cut), [long, ANSWER]) == [(0, "content", "changed")]


def test_marks_around_the_wrong_turns_are_found(chatml):
    template = (
        HEAD + "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% endfor %}"
    )
    assert found(with_template(chatml, template), TWO_TURNS)[:2] == [
        (0, "content", "trained"),
        (2, "content", "trained"),
    ]
    last = "{% if loop.last %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}"
    template = HEAD + last + "{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    assert found(with_template(chatml, template), TWO_TURNS) == [(1, "content", "untrained")]
    assert found(with_template(chatml, template), TWO_TURNS, only_unmask_final=True) == []


def test_a_turn_that_ends_with_the_token_of_the_next_role_trains_on_it(chatml):
    """GLM-4 has `<|user|>` and `<|observation|>` among its end-of-sequence tokens."""
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ '<|im_end|>' + m.content }}"
        "{% else %}{{ '<|im_start|>' + m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>' }}{% endif %}"
    )
    tokenizer = with_template(copy.deepcopy(chatml), template)
    tokenizer.eos_token = "<|endoftext|>"
    r = rendered(tokenizer, TWO_TURNS)
    assert (targets(r), r.add_eos, r.findings) == (["It is 12.<|im_end|>", "You are welcome."], True, ())


def test_marks_that_leave_the_end_out_get_it(chatml):
    marks = "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}"
    r = rendered(with_template(chatml, HEAD + marks + "{% endif %}" + TAIL), TWO_TURNS)
    assert (targets(r), r.findings) == (["It is 12.<|im_end|>", "You are welcome.<|im_end|>"], ())


def test_a_turn_without_an_end_is_found(chatml, plain):
    words = with_template(plain, "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}")
    assert found(words, TWO_TURNS) == [(1, "end of turn", "untrained")]
    endless = copy.deepcopy(plain)
    endless.eos_token = None
    encoder = Encoder(endless)
    read = Format(chat=False).supervised
    (finding,) = encoder.encode(read({"prompt": "Tom", "completion": " has"})).findings
    assert (finding.part, finding.what) == ("end of text", "untrained")
    assert encoder.encode(read({"prompt": "Tom", "completion": " has"})).tokens[-1] is not None
    assert (
        Encoder(endless, add_eos=False).encode(read({"prompt": "Tom", "completion": " has"})).findings == ()
    )


def test_the_end_of_text_beside_a_call_that_is_left_out_is_told(chatml):
    template = (
        HEAD
        + "{% if m.tool_calls %}{{ m.tool_calls[0].function | tojson }}{% else %}{{ m.content }}{% endif %}"
        + TAIL
    )
    talk = [ASK, call({"city": "Paris"}, content="I look."), RESULT, ANSWER]
    assert found(with_template(chatml, template), talk) == [(1, "text beside a call", "dropped")]


def test_a_tally_says_each_kind_once_with_its_first_row(qwen3):
    talk = [ASK, {"role": "assistant", "content": "<think>hm</think>Yes."}, MORE, FINAL]
    finding_log = FindingLog()
    for row in (3, 7):
        finding_log.add(f"rows.jsonl, row {row}", rendered(qwen3, talk).findings)
    (notice,) = finding_log.unreported()
    assert notice.startswith(
        "rows.jsonl, row 3: reasoning of message 1 (assistant) is left out by the chat template"
    )
    assert finding_log.unreported() == []


PYTHON, QUOTED = {**RESULT, "content": "{'city': 'Paris'}"}, {**RESULT, "content": '{"city": "Paris"}'}
CALL_AND_RESULT = (
    CALLS.replace("(m.content or '')", "(m.content | tojson if m.role == 'tool' else m.content or '')")
    + "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}"
    + TAIL
)


@pytest.mark.parametrize("result", [PYTHON, QUOTED])
@pytest.mark.parametrize("template", [OBJECTS, CALL_AND_RESULT])
def test_a_result_that_reads_like_a_garbled_call_does_not_make_the_call_one(chatml, template, result):
    talk = [ASK, call({"city": "Paris"}), result, MORE]
    Encoder(with_template(chatml, template)).render_prompt(PromptText(talk))
    assert found(with_template(chatml, template), [*talk[:-1], ANSWER], only_unmask_final=True) == []


def test_text_beside_a_call_may_quote_the_call(chatml):
    talk = [ASK, call({"city": "Paris"}, content="I call f with {'city': 'Paris'}."), RESULT, ANSWER]
    assert found(with_template(chatml, OBJECTS), talk) == []


def test_definitions_of_tools_that_are_written_as_python_do_not_garble_a_call(chatml):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"city": {}}}}}
    tokenizer = with_template(chatml, "{{ tools | string }}" + OBJECTS)
    Encoder(tokenizer).render_prompt(PromptText([ASK, call({"city": "Paris"}), RESULT, MORE], tools=[tool]))


@pytest.mark.parametrize("tool", [{"function": "f"}, {"function": {}}])
def test_a_definition_that_is_none_stops_nothing(chatml, tool):
    Encoder(chatml).render_prompt(PromptText([ASK], tools=[tool]))


def test_a_long_conversation_is_checked_in_time_proportional_to_its_length():
    def seconds(turns: int) -> float:
        bodies = [f"{i} " + " ".join(f"word{i * j % 977}" for j in range(100)) for i in range(turns)]
        messages = [
            {"role": "assistant" if i % 2 else "user", "content": body} for i, body in enumerate(bodies)
        ]
        text, spans = "", []
        for i, body in enumerate(bodies):
            if i % 2:
                spans.append((len(text), len(text) + len(body)))
            text += body + "<|im_end|>\n"
        start = time.process_time()
        assert check(messages, text, spans, range(1, turns, 2), "it") == []
        return time.process_time() - start

    assert min(seconds(1600), seconds(1600)) < 20 * max(0.003, seconds(200))  # 64 times if it were quadratic
