r"""The formats of tool calls, and a parser for each. A parser gets the text from its marker on; scans are linear.

<tool_call>{"name": …, "arguments": {…}}</tool_call>                Hermes, Qwen, Granite
<tool_call><function=f><parameter=x>1</parameter></function>…       Qwen 3.5, Qwen Coder, Nemotron
<tool_call>f<arg_key>x</arg_key><arg_value>1</arg_value>…           GLM 4.5
f\n{…}                                                              GLM 4, where f is one of the tools
[TOOL_CALLS][{…}, …]   [TOOL_CALLS]f[ARGS]{…}                       Mistral
{"name": …, "parameters": {…}}   <|python_tag|>{…}; {…}             Llama 3, if it is the whole message
<|tool_call_start|>[f(x=1), g()]<|tool_call_end|>   [f(x=1)]        LFM 2, Llama 4
<|tool_call>call:f{x:1,y:<|"|>text<|"|>}<tool_call|>                Gemma 4
… to=functions.f<|channel|>commentary json<|message|>{…}            gpt-oss
<｜tool▁call▁begin｜>f<｜tool▁sep｜>{…}<｜tool▁call▁end｜>          DeepSeek
<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{…}     Kimi
<invoke name="f"><parameter name="x">1</parameter></invoke>         MiniMax, and others with a prefix
<|START_ACTION|>[{…}]<|END_ACTION|>   <|tool_call|>[{…}]            Command R, Phi 4
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator

from hone.rollout.environments import tool_reading
from hone.rollout.environments.tool_reading import ParameterSchemas, ParsedCall, json_arguments, json_calls

_MAX_PYTHON = 100_000  # characters; Python's parser needs memory for each
_RECIPIENT = re.compile(r"to=functions\.([\w.-]+)[^\n]{0,80}?<\|message\|>")


def find(text: str, types: ParameterSchemas) -> tuple[int, list[ParsedCall]] | None:
    """The position of the first call, and all calls; None for a text without any."""
    marks = [(at, reader) for mark, reader in _MARKED if (at := text.find(mark)) >= 0]
    marks += [(m.start(), reader) for mark, reader in _PATTERNS if (m := mark.search(text))]
    if marks:
        start, reader = min(marks, key=lambda mark: mark[0])
        return start, list(reader(text[start:], types))
    for bare in (_bare_json, _bare_python, _bare_name):
        if found := list(bare(text.strip(), types)):
            return 0, found
    return None


# Formats with a marker


def _mistral(text: str, types: ParameterSchemas) -> Iterator[ParsedCall]:
    for part in text.split("[TOOL_CALLS]")[1:]:
        head, separated, arguments = part.partition("[ARGS]")
        if separated:
            name, _, id = head.partition("[CALL_ID]")
            call = json_arguments(name, arguments)
            yield ParsedCall(call.name, call.arguments, id.strip() or None, call.error)
        else:
            yield from json_calls(part)


def _python_tag(text: str, types: ParameterSchemas) -> Iterator[ParsedCall]:
    rest = text.removeprefix("<|python_tag|>").strip()
    if rest.startswith(("{", "[{")):
        yield from json_calls(rest)
    else:
        yield from _python_calls(f"[{rest}]")


def _python_list(text: str, types: ParameterSchemas) -> Iterator[ParsedCall]:
    for part in text.split("<|tool_call_start|>")[1:]:
        body, ended, _ = part.partition("<|tool_call_end|>")
        body = body.strip()
        if not ended and not body.endswith("]"):
            yield ParsedCall(error="a tool call has no <|tool_call_end|>")
        elif body.startswith(("{", "[{")):
            yield from json_calls(body)
        else:
            yield from _python_calls(body)


def _python_calls(text: str) -> Iterator[ParsedCall]:
    """`[f(x=1), g()]`: parsed, never run."""
    if len(text) > _MAX_PYTHON:
        yield ParsedCall(error="a tool call is too long")
        return
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        yield ParsedCall(error=f"a tool call cannot be read: {str(error)[:200]}")
        return
    for node in tree.elts if isinstance(tree, ast.List | ast.Tuple) else [tree]:
        yield _python_call(node)


def _python_call(node: ast.expr) -> ParsedCall:
    if not isinstance(node, ast.Call) or node.args or any(k.arg is None for k in node.keywords):
        return ParsedCall(error="a tool call needs a name and arguments by keyword")
    name = ast.unparse(node.func).removesuffix(".call")
    try:
        return ParsedCall(name, {str(k.arg): ast.literal_eval(k.value) for k in node.keywords})
    except (ValueError, TypeError, RecursionError, MemoryError):
        return ParsedCall(name, error=f"an argument of {name} is not a literal")


def _gemma(text: str, types: ParameterSchemas) -> Iterator[ParsedCall]:
    for part in text.split("<|tool_call>")[1:]:
        body = part.partition("<tool_call|>")[0]
        name, opened, arguments = body.strip().removeprefix("call:").partition("{")
        if not (opened and arguments.rstrip().endswith("}")):
            yield ParsedCall(name.strip() or "unknown", error="a tool call has no <tool_call|>")
            continue
        yield json_arguments(name, "{" + _gemma_json(arguments))


def _gemma_json(text: str) -> str:
    """JSON from Gemma's form, where quotes are a special token and keys are unquoted."""
    parts = text.split('<|"|>')
    parts[::2] = [re.sub(r"([{,]|^)\s*([\w.$-]+)\s*:", r'\1"\2":', part) for part in parts[::2]]
    parts[1::2] = [json.dumps(part) for part in parts[1::2]]
    return "".join(parts)


def _harmony(text: str, types: ParameterSchemas) -> Iterator[ParsedCall]:
    for match in _RECIPIENT.finditer(text):
        body = text[match.end() :]
        ends = [at for end in ("<|call|>", "<|end|>", "<|start|>") if (at := body.find(end)) >= 0]
        yield json_arguments(match[1], body[: min(ends, default=len(body))])


def _deepseek(text: str, types: ParameterSchemas) -> Iterator[ParsedCall]:
    for part in text.split("<｜tool▁call▁begin｜>")[1:]:
        name, separated, body = part.partition("<｜tool▁sep｜>")
        body = body.partition("<｜tool▁call▁end｜>")[0]
        if not separated:
            yield ParsedCall(error="a tool call has no <｜tool▁sep｜>")
        elif name.strip() == "function":
            name, _, body = body.strip().partition("\n")
            yield json_arguments(name, body)
        else:
            yield json_arguments(name, body)


def _kimi(text: str, types: ParameterSchemas) -> Iterator[ParsedCall]:
    for part in text.split("<|tool_call_begin|>")[1:]:
        id, separated, body = part.partition("<|tool_call_argument_begin|>")
        name = id.strip().removeprefix("functions.").rpartition(":")[0]
        if not (separated and name):
            yield ParsedCall(error="a tool call has no <|tool_call_argument_begin|>")
            continue
        call = json_arguments(name, body.partition("<|tool_call_end|>")[0])
        yield ParsedCall(call.name, call.arguments, id.strip(), call.error)


def _behind(mark: str) -> tool_reading.Reader:
    """A parser of JSON after each occurrence of a marker."""

    def read(text: str, types: ParameterSchemas) -> Iterator[ParsedCall]:
        for part in text.split(mark)[1:]:
            yield from json_calls(part)

    return read


# Formats without a marker: the call is the whole message


def _bare_json(text: str, types: ParameterSchemas) -> Iterator[ParsedCall]:
    if text.startswith(("{", "[{")) and text.endswith(("}", "]")) and '"name"' in text:
        found = list(json_calls(text))
        if any(c.name in types or (c.error is None and isinstance(c.arguments, dict)) for c in found):
            yield from found


def _bare_python(text: str, types: ParameterSchemas) -> Iterator[ParsedCall]:
    begins = re.match(r"\[\s*([\w.]+)\s*\(", text)
    if begins and begins[1] in types and text.endswith("]"):
        yield from _python_calls(text)


def _bare_name(text: str, types: ParameterSchemas) -> Iterator[ParsedCall]:
    name, _, rest = text.partition("\n")
    if name.strip() in types and rest.lstrip().startswith("{"):
        yield json_arguments(name, rest)


_MARKED: tuple[tuple[str, tool_reading.Reader], ...] = (
    ("<tool_call>", tool_reading.tagged),
    ("<function=", tool_reading.functions),
    ("[TOOL_CALLS]", _mistral),
    ("<|python_tag|>", _python_tag),
    ("<|tool_call_start|>", _python_list),
    ("<|tool_call>", _gemma),
    ("<｜tool▁call▁begin｜>", _deepseek),
    ("<|tool_call_begin|>", _kimi),
    ("<|START_ACTION|>", _behind("<|START_ACTION|>")),
    ("<|tool_call|>", _behind("<|tool_call|>")),
)
_PATTERNS: tuple[tuple[re.Pattern[str], tool_reading.Reader], ...] = (
    (_RECIPIENT, _harmony),
    (tool_reading.INVOKE, tool_reading.invokes),
)
