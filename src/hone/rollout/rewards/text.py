"""Reading answers out of text: completions, and gold columns of several conventions. All scans are linear."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

_NUMBER = re.compile(r"(?<![\w.])(?:(?<!\))[-+])?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)")
_PLAIN_NUMBER = re.compile(r"([-+]?)(\d+|\d{1,3}(?:,\d{3})+)?(?:\.(\d*))?(?:/(\d+))?")
_FENCE = re.compile(r" {0,3}(`{3,})(.*)")
_MAX_DIGITS = 200  # a completion may be one long number; int() is quadratic in its length


def text_of(completion: str | list[dict[str, Any]]) -> str:
    """The text of a completion: itself, or the content of its last message when it is conversational."""
    if isinstance(completion, str):
        return completion
    content = completion[-1].get("content") if completion else ""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content or ""


def answer_tag(text: str) -> str | None:
    """What stands in the last `<answer>…</answer>`, stripped; None without one."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, end) if end >= 0 else -1
    return text[start + len("<answer>") : end].strip() if start >= 0 else None


def boxed(text: str) -> str | None:
    r"""What stands in the last `\boxed{…}` with its braces balanced; None without one."""
    start = text.rfind(r"\boxed{")
    if start < 0:
        return None
    depth = 0
    for i in range(start + len(r"\boxed"), len(text)):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return text[start + len(r"\boxed{") : i].strip()
    return None


def gold_answer(gold: object) -> str | None:
    r"""The final answer in a gold column: after GSM8K's `####`, in `<answer>`, in `\boxed{}`, or all of it.

    None when there is none: an empty or missing value, or one that is not text or a number.
    """
    if isinstance(gold, bool) or not isinstance(gold, str | int | float):
        return None
    text = str(gold).strip()
    if "####" in text:
        return text.rpartition("####")[2].strip() or None
    for inner in (answer_tag(text), boxed(text)):
        if inner is not None:
            return inner or None
    return text or None


def as_number(text: str) -> Fraction | None:
    """The exact value of `72`, `-1,234.50`, `$72.`, `50%` (read as 50) or `3/4`; None for anything else."""
    text = text.strip().replace("\\$", "$").replace("\\%", "%").lstrip("$").rstrip("%").strip().rstrip(".")
    match = _PLAIN_NUMBER.fullmatch(text) if len(text) <= _MAX_DIGITS else None
    if match is None:
        return None
    sign, whole, decimals, denominator = match.groups()
    if not (whole or decimals) or (denominator is not None and int(denominator) == 0):
        return None
    value = Fraction(f"{(whole or '0').replace(',', '')}.{decimals or '0'}") / int(denominator or 1)
    return -value if sign == "-" else value


def last_number(text: str) -> Fraction | None:
    """The value of the last number in the text; None without one."""
    last = None
    for last in _NUMBER.finditer(text):  # noqa: B007
        pass
    return as_number(last.group()) if last else None


def same_answer(given: str, gold: str) -> bool:
    """Equal as numbers where both are numbers; else equal as text, ignoring case and runs of white space."""
    given_number, gold_number = as_number(given), as_number(gold)
    if given_number is not None and gold_number is not None:
        return given_number == gold_number
    return given.casefold().split() == gold.casefold().split()


def fenced(text: str) -> str | None:
    """What stands in the last closed Markdown fence (three or more backticks on a line of their own); None without."""
    found, opened = None, ""
    inside: list[str] = []
    for line in text.split("\n"):
        mark = _FENCE.match(line)
        if opened and mark and mark.group(1).startswith(opened) and not mark.group(2).strip():
            found, opened = "\n".join(inside), ""
        elif opened:
            inside.append(line)
        elif mark:
            opened, inside = mark.group(1), []
    return found
