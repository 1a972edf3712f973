"""Every row format, read by hand."""

from __future__ import annotations

import pytest

from hone.data.formats import Example, Format, PromptText, read_prompt_file
from hone.errors import ConfigError, DataError

Q, A = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
SYSTEM = {"role": "system", "content": "be brief"}
PAIR = Example((Q, A), 1)
SHAREGPT = [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]


@pytest.mark.parametrize(
    ("row", "example"),
    [
        ({"text": "hello"}, Example(completion="hello")),
        ({"messages": [Q, A]}, Example((Q, A))),
        ({"messages": [{"role": "user", "content": "2+2?", "name": None}, A]}, Example((Q, A))),
        (
            {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
            Example((Q, A)),
        ),
        ({"conversations": [SYSTEM, Q, A]}, Example((SYSTEM, Q, A))),
        ({"prompt": "2+2", "completion": "=4"}, Example(prompt="2+2", completion="=4")),
        ({"prompt": [SYSTEM, Q], "completion": [A]}, Example((SYSTEM, Q, A), 2)),
        ({"question": "2+2?", "answer": "4"}, PAIR),
        ({"question": "2+2?", "answer": 4}, PAIR),
        ({"input": "2+2?", "output": "4"}, PAIR),
        ({"problem": "2+2?", "generated_solution": "4", "expected_answer": "4"}, PAIR),
        ({"instruction": "2+2?", "input": "", "output": "4"}, PAIR),
        (
            {"instruction": "Add.", "input": "2+2", "output": "4"},
            Example(({"role": "user", "content": "Add.\n\n2+2"}, A), 1),
        ),
        (
            {"context": "c", "question": "2+2?", "answers": {"text": ["4", "four"], "answer_start": [0, 1]}},
            Example(({"role": "system", "content": "c"}, Q, A), 2),
        ),
        ({"messages": None, "text": "hello"}, Example(completion="hello")),
        ({"messages": [Q, A], "tools": [{"name": "f"}]}, Example((Q, A), tools=[{"name": "f"}])),
    ],
)
def test_supervised_rows(row, example):
    assert Format().supervised(row) == example


def test_pairs_without_a_chat_template_are_lines():
    assert Format(chat=False).supervised({"question": "2+2?", "answer": "4"}) == Example(
        prompt="2+2?\n", completion="4"
    )
    assert Format(chat=False).prompt({"question": "2+2?", "answer": "4"}) == PromptText("2+2?\n")


def test_named_columns():
    named = Format(input_key="q", output_key="a")
    row = {"q": "2+2?", "a": "4", "text": "not this"}
    assert named.supervised(row) == PAIR
    assert named.prompt(row) == PromptText([Q])
    with pytest.raises(DataError, match=r"no column 'a'; it has q"):
        named.supervised({"q": "x"})


def test_prompt_template():
    seeds = Format(prompt_template="Human: {input}\n\nAssistant: {output}")
    row = {"input": "2+2?", "output": "4"}
    assert seeds.supervised(row) == Example(prompt="Human: 2+2?\n\nAssistant: ", completion="4")
    assert seeds.prompt({"input": "2+2?"}) == PromptText("Human: 2+2?\n\nAssistant: ")
    other = Format(prompt_template="{c}|{question} => {answer}!", input_key="unused")
    assert other.supervised({"c": "x", "question": "q", "answer": "a"}) == Example(
        prompt="x|q => ", completion="a!"
    )
    renamed = Format(prompt_template="{input} {{literally}} {output}", input_key="q", output_key="a")
    assert renamed.supervised({"q": "1", "a": "2"}) == Example(prompt="1 {literally} ", completion="2")


def test_prompt_template_errors():
    with pytest.raises(DataError, match=r"no column 'output'; it has input, ouput \(is 'ouput' meant to be"):
        Format(prompt_template="{input} {output}").supervised({"input": "x", "ouput": "y"})
    with pytest.raises(ConfigError, match="needs a placeholder for the question and one for the answer"):
        Format(prompt_template="{input}").supervised({"input": "x"})
    with pytest.raises(ConfigError, match="not valid"):
        Format(prompt_template="{input").supervised({"input": "x"})


def test_prompt_files():
    f = Format(system_prompt="be brief", prompt_text="Solve: {} in {braces}")
    asked = {"role": "user", "content": "Solve: 2+2? in {braces}"}
    assert f.prompt({"problem": "2+2?"}) == PromptText([SYSTEM, asked])
    assert f.prompt({"prompt": "2+2?"}) == PromptText([SYSTEM, asked])
    assert f.prompt({"messages": [Q, A]}) == PromptText([SYSTEM, asked])
    assert f.supervised({"messages": [Q, A]}) == Example((SYSTEM, asked, A))
    assert f.supervised({"prompt": [Q], "completion": [A]}) == Example((SYSTEM, asked, A), 2)
    assert f.supervised({"prompt": "2+2?", "completion": "4"}) == Example((SYSTEM, asked, A), 2)
    own = {"role": "system", "content": "own"}
    assert f.prompt({"messages": [own, Q]}) == PromptText([own, asked])
    plain = Format(chat=False, system_prompt="be brief", prompt_text="Solve: {}")
    assert plain.prompt({"problem": "2+2?"}) == PromptText("be brief\n\nSolve: 2+2?\n")
    with pytest.raises(ConfigError, match=r"has no \{\}"):
        Format(prompt_text="no place").prompt({"problem": "2+2?"})


def test_prompt_file_that_is_not_there(tmp_path):
    (tmp_path / "p.txt").write_text("x {}")
    assert read_prompt_file(str(tmp_path / "p.txt"), "k") == "x {}"
    assert read_prompt_file(None, "k") is None
    with pytest.raises(ConfigError, match=r"data.train.prompt_file: cannot read .*no.txt \(No such file"):
        read_prompt_file(str(tmp_path / "no.txt"), "data.train.prompt_file")


@pytest.mark.parametrize(
    ("row", "content"),
    [
        ({"prompt": "2+2=", "answer": "4"}, "2+2="),
        ({"prompt": [SYSTEM, Q]}, [SYSTEM, Q]),
        ({"messages": [Q, A]}, [Q]),
        ({"messages": [Q, A, Q, A]}, [Q, A, Q]),
        ({"conversations": SHAREGPT}, [Q]),
        ({"question": "2+2?"}, [Q]),
        ({"problem": "2+2?", "answer": "4"}, [Q]),
        ({"input": "2+2?", "output": "4"}, [Q]),
    ],
)
def test_prompt_rows(row, content):
    assert Format().prompt(row).content == content


class TestBadRows:
    def test_no_known_columns(self):
        with pytest.raises(DataError, match=r"columns promt, completion, .*'promt' meant to be 'prompt'\?"):
            Format().supervised({"promt": "x", "completion": "y"})
        with pytest.raises(DataError, match=r"columns a, b \(null\), and none that .*'text'; 'prompt' and"):
            Format().supervised({"a": 1, "b": None})
        with pytest.raises(DataError, match=r"column 'text' is empty .*columns a, text \(null\)"):
            Format().supervised({"a": 1, "text": None})
        with pytest.raises(DataError, match=r"columns quesion, and no prompt: one of prompt, .*'question'\?"):
            Format().prompt({"quesion": "x"})

    def test_prompt_without_completion_is_not_supervised(self):
        with pytest.raises(DataError, match="columns prompt, and none that"):
            Format().supervised({"prompt": "x"})

    def test_bad_messages(self):
        for messages, message in [
            ("hello", "must be a list of messages"),
            ([], "must be a list of messages"),
            (["hi"], r"messages\[0\] must be a message"),
            ([{"rol": "user", "content": "x"}], r"messages\[0\] has the keys \['content', 'rol'\]"),
            ([Q], "no assistant message to learn from"),
        ]:
            with pytest.raises(DataError, match=message):
                Format().supervised({"messages": messages})
        with pytest.raises(DataError, match="no user message to answer"):
            Format().prompt({"messages": [SYSTEM]})

    def test_mixed_and_wrong_types(self):
        with pytest.raises(DataError, match="must both be text or both be lists"):
            Format().supervised({"prompt": "x", "completion": [A]})
        with pytest.raises(DataError, match="column 'answer' must be text, but holds list"):
            Format().supervised({"question": "x", "answer": ["y"]})
        with pytest.raises(DataError, match="'tools' is text that is not JSON"):
            Format().supervised({"messages": [Q, A], "tools": "nope"})
        with pytest.raises(DataError, match="prompt is empty"):
            Format().prompt({"prompt": ""})
