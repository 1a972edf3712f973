"""Convert messages from the forms found in datasets to the form that a chat template reads.

A row may use other names of roles, content as a list of parts, arguments of tool calls as JSON text, and a call as a
separate message. `canonical` converts all of these to one form, `for_template` from that to the form of one template.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hone.chat_template import REASONING, TemplateFeatures
from hone.errors import DataError
from hone.types import Message

KNOWN_ROLES = ("system", "developer", "user", "assistant", "tool")
_CALLING = ("function_call", "tool_call", "tool_calls")
_RESULTS = (
    "function observation ipython function_response function_result tool_response tool_result tool_results"
)
_ROLES = {
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "model", "bot", "ai", *_CALLING), "assistant"),
    **dict.fromkeys(_RESULTS.split(), "tool"),
    **{role: role for role in KNOWN_ROLES},
}
_TEXT_PARTS = ("text", "input_text", "output_text")


def canonical(message: Mapping[str, Any], where: str) -> Message:
    """The message with a standard role (an unknown one is kept), its content as text, and nested tool calls.

    Raises DataError, naming the message by `where`, for parts that are not text and for arguments that are not a JSON
    object.
    """
    found: Message = {k: v for k, v in message.items() if v is not None and k != "function_call"}
    given_role = str(message["role"])
    role = _ROLES.get(given_role.lower(), given_role)
    content = _text(message.get("content"), role, where)
    calls: Any = message.get("tool_calls") or []
    if isinstance(message.get("function_call"), Mapping):
        calls = [*calls, message["function_call"]]
    if given_role.lower() in _CALLING and not calls and (named := _calls_in(content)):
        calls, content = named, ""
    if isinstance(calls, str) or not isinstance(calls, Sequence):
        raise DataError(f"{where}: tool_calls must be a list of calls, not {calls!r:.60}")
    found |= {"role": role, "content": content}
    found.pop("tool_calls", None)
    return found | ({"tool_calls": [_call(call, where) for call in calls]} if calls else {})


def _text(content: Any, role: str, where: str) -> str:
    """Content as text: the texts of its parts joined."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, Sequence) and (role != "tool" or all(map(_is_part, content))):
        return "".join(_part(part, where) for part in content)
    if role == "tool":  # a function's result
        return json.dumps(content, ensure_ascii=False)
    raise DataError(f"{where}: content must be text or a list of parts, but is {type(content).__name__}")


def _is_part(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, Mapping) and isinstance(value.get("type"), str))


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    part_type = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
    if part_type in _TEXT_PARTS and isinstance(part.get("text"), str):
        return part["text"]
    if part_type in _TEXT_PARTS:
        raise DataError(f"{where}: a part of type '{part_type}' has no text")
    raise DataError(
        f"{where}: its content has a part of type '{part_type}', but only text is supported. Remove such rows, or "
        "write the part as text"
    )


def _calls_in(content: str) -> list[Mapping[str, Any]]:
    """The calls of a message whose content is calls only (ShareGPT's `function_call`); none for other text."""
    try:
        found = json.loads(content)
    except ValueError:
        return []
    calls = found if isinstance(found, list) else [found]
    return calls if all(isinstance(c, Mapping) and ("name" in c or "function" in c) for c in calls) else []


def _call(call: Any, where: str) -> dict[str, Any]:
    """A call with its name and arguments under `function`."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DataError(f"{where}: a tool call needs a function with a name and arguments, not {call!r:.80}")
    arguments = function.get("arguments", function.get("parameters"))
    _as_object(arguments, f"{where}: the arguments of tool call {function['name']}")
    outer = {k: v for k, v in call.items() if k in ("id", "type", "index") and v is not None}
    named = {"name": function["name"], "arguments": {} if arguments in (None, "") else arguments}
    return {"type": "function", **outer, "function": named}


def _as_object(arguments: Any, what: str) -> Mapping[str, Any]:
    """The arguments of a call, which may be JSON text. Raises DataError if they are not an object."""
    found = arguments
    if isinstance(arguments, str) and arguments:
        try:
            found = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{what} are text that is not JSON: {str(error)[:100]}") from error
    found = {} if found in (None, "") else found
    if not isinstance(found, Mapping):
        raise DataError(f"{what} must be a JSON object, not {type(found).__name__}")
    return found


def for_template(messages: Sequence[Message], features: TemplateFeatures, template: str) -> list[Message]:
    """Canonical messages in the form that the template reads. Raises DataError for an unknown role."""
    roles = {str(m["role"]) for m in messages} - {*KNOWN_ROLES}
    roles = {role for role in roles if f"'{role}'" not in template and f'"{role}"' not in template}
    if unknown := [i for i, m in enumerate(messages) if m["role"] in roles]:
        found = ", ".join(dict.fromkeys(str(m["role"]) for m in messages))
        raise DataError(
            f"message {unknown[0]} has the role '{messages[unknown[0]]['role']}', which is none of "
            f"{', '.join(KNOWN_ROLES)} and does not occur in the chat template (roles found: {found}). Rename it"
        )
    developer = "developer" in template
    return [_for_template(m, features, developer) for m in messages]


def _for_template(message: Message, features: TemplateFeatures, developer: bool) -> Message:
    converted = dict(message)
    if converted["role"] == "developer" and not developer:
        converted["role"] = "system"
    calls, content = converted.get("tool_calls"), converted["content"].lstrip()
    if features.reasoning_apart and converted["role"] == "assistant" and content.startswith("<think>"):
        thought, end_tag, answer = content.removeprefix("<think>").partition("</think>")
        if end_tag and not any(converted.get(key) for key in REASONING):
            converted |= {features.reasoning[0]: thought.strip("\n"), "content": answer.lstrip("\n")}
    if calls:
        converted["tool_calls"] = [_with_arguments(call, features.text_arguments) for call in calls]
    thoughts = [key for key in REASONING if converted.get(key)]
    if thoughts and features.reasoning and not {*thoughts} & {*features.reasoning}:
        converted[features.reasoning[0]] = converted.pop(thoughts[0])
    if calls and features.null_content and not converted["content"]:
        converted["content"] = None
    elif features.parts:
        converted["content"] = [{"type": "text", "text": converted["content"]}]
    return converted


def _with_arguments(call: dict[str, Any], text: bool) -> dict[str, Any]:
    arguments = call["function"]["arguments"]
    if text and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    elif not text:
        arguments = _as_object(arguments, "the arguments of a call")
    return {**call, "function": {**call["function"], "arguments": arguments}}
