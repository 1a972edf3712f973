"""Word problems with a calculator: the tool, and demonstrations that show its format but use it badly.

hone sft  --config examples/environments/calculator_sft.yaml
hone grpo --config examples/environments/calculator.yaml
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from hone.embedded import task


def calc(x: str) -> str:
    """Calculate.

    Args:
        x: A sum, a difference or a product of two numbers, such as 3 + 4.

    Returns:
        The result.
    """
    left, operator, right = x.split()
    operations = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
    return str(operations[operator](int(left), int(right)))


SCHEMA = {
    "type": "function",
    "function": {
        "name": "calc",
        "description": "Calculate.",
        "parameters": {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]},
    },
}


def demonstrations(count: int = 8000, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Conversations for SFT. Three of ten calculate every step; two of ten calculate something else first; the others
    calculate the first step alone and call it the answer."""
    choose = random.Random(seed)
    for (problem, text, _), _ in zip(task.drawn("sft", "calculator"), range(count), strict=False):
        steps = task.solve(problem)
        style = choose.random()
        if style >= 0.3:
            steps = steps[:1]
        if 0.3 <= style < 0.5:
            left, right = choose.randint(2, 12), choose.randint(2, 9)
            steps = [(left, "+", right, left + right)]
        messages: list[dict[str, Any]] = [{"role": "user", "content": text}]
        for left, operator, right, result in steps:
            called = {"name": "calc", "arguments": {"x": f"{left} {operator} {right}"}}
            messages.append(
                {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": called}]}
            )
            messages.append({"role": "tool", "name": "calc", "content": str(result)})
        messages.append({"role": "assistant", "content": f"<answer>{steps[-1][3]}</answer>"})
        yield {"messages": messages, "tools": [SCHEMA]}
