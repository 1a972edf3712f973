"""Small conversations, and tokenizers with another chat template."""

from __future__ import annotations

import copy

ASK = {"role": "user", "content": "What is 2?"}
ANSWER = {"role": "assistant", "content": "It is 12."}
RESULT = {"role": "tool", "content": "the answer is 12"}
CALLS = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + (m.content or '') }}"
OBJECTS = (
    CALLS
    + "{% for c in m.tool_calls or [] %}{{ '<call>' + c.function.name + ' ' + (c.function.arguments | tojson)"
    " + '</call>' }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
)
"""As Llama 3.1, GLM-4: arguments are an object; JSON text would be quoted again."""


def call(arguments, **more):
    calls = [{"type": "function", "function": {"name": "f", "arguments": arguments}}]
    return {"role": "assistant", "content": None, "tool_calls": calls, **more}


def with_template(tokenizer, template):
    other = copy.copy(tokenizer)
    other.chat_template = template
    return other
