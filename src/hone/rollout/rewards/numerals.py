"""Parses numbers as people and models write them, exactly. All scans are linear."""

from __future__ import annotations

import re
from fractions import Fraction

_MINUS = str.maketrans(dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\ufe63\uff0d", "-"))
"""Variants of the minus sign: U+2212, hyphens, the figure dash."""
_SPACES = re.compile(r"\\[,!;:]|\{,\}|[\u00a0\u2007\u2009\u202f]")
_NUMBER = re.compile(
    r"(?<![\w.])(?:(?<!\))[-+])?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,4}(?!\w))?"
)
_PLAIN = re.compile(
    r"([-+]?)\$?\s*(\d+|\d{1,3}(?:,\d{3})+)?(?:\.(\d*))?(?:[eE]([-+]?\d{1,4})|/(\d+)|\s+(\d+)/(\d+))?"
)
_MAX_DIGITS = 200  # int() is quadratic in the length of a number
_MAX_EXPONENT = 400

_ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SMALL = {word: i for i, word in enumerate(_ONES)} | {word: 20 + 10 * i for i, word in enumerate(_TENS)}
_LARGE = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_MAX_WORDS = 30


def with_plain_minus(text: str) -> str:
    """Every minus sign and dash as `-`."""
    return text.translate(_MINUS)


def as_number(text: str) -> Fraction | None:
    r"""The exact value of `72`, `-1,234.50`, `$72.`, `-$5`, `50%` (as 50), `3/4`, `1 1/2`, `1e3`; None for other text.

    LaTeX's thousands separators (`1{,}234`, `1\,234`) and the minus sign U+2212 are accepted.
    """
    if len(text) > 2 * _MAX_DIGITS:
        return None
    text = with_plain_minus(_SPACES.sub("", text)).strip().replace("\\$", "$").replace("\\%", "%")
    text = text.lstrip("$").rstrip(".").rstrip("%").strip().rstrip(".")
    match = _PLAIN.fullmatch(text) if len(text) <= _MAX_DIGITS else None
    if match is None:
        return None
    sign, whole, decimals, exponent, denominator, above, below = match.groups()
    if not (whole or decimals) or any(d is not None and int(d) == 0 for d in (denominator, below)):
        return None
    if (above and decimals is not None) or abs(int(exponent or 0)) > _MAX_EXPONENT:
        return None
    value = Fraction(f"{(whole or '0').replace(',', '')}.{decimals or '0'}") / int(denominator or 1)
    value = value * Fraction(10) ** int(exponent or 0) + Fraction(int(above or 0), int(below or 1))
    return -value if sign == "-" else value


def last_number_text(text: str) -> str | None:
    """The last number in the text as it is written, with a plain minus sign; None without one."""
    last = None
    for last in _NUMBER.finditer(with_plain_minus(text)):  # noqa: B007
        pass
    return last.group() if last else None


def last_number(text: str) -> Fraction | None:
    """The value of the last number in the text; None without one."""
    last = last_number_text(text)
    return as_number(last) if last is not None else None


def spelled_out(text: str) -> int | None:
    """The value of a number in English words, such as `forty-two` or `one hundred and five`; None for other text."""
    words = text.casefold().replace("-", " ").replace(",", " ").split()
    negative = words[:1] in (["minus"], ["negative"])
    words = [word for word in words[negative:] if word != "and"]
    if not words or len(words) > _MAX_WORDS:
        return None
    total = group = 0
    for word in words:
        if word in _SMALL:
            value = _SMALL[word]
            taken = group % 100 if value >= 10 or group % 100 < 20 else group % 10
            if taken or (value == 0 and len(words) > 1):
                return None  # "five six" is two numbers
            group += value
        elif word == "hundred" and group < 100:
            group = max(group, 1) * 100
        elif word in _LARGE:
            total, group = total + max(group, 1) * _LARGE[word], 0
        else:
            return None
    return -(total + group) if negative else total + group
