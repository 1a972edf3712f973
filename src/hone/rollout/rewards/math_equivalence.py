r"""Mathematical equivalence of an answer and the gold answer: by math-verify, after the cases that it gets wrong.

normalize   −5, ½, x², 1\,000, 1e3 and **5** become LaTeX that math-verify parses; lines `5 \\ 6` become a list
numbers     compared exactly if both are numbers, also in words (forty-two)
words       names and choices are compared as text: math-verify parses them as products of letters
statements  `4 \text{ is wrong}` is no value: it equals the same text only
equations   `x = 5` determines x; `3x = 18` does not, and `2 + 2 = 5` is wrong; in `a \approx b` both sides must agree
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

from hone.rollout.rewards.numerals import as_number, spelled_out, with_plain_minus

_VULGAR = re.compile("[¼½¾⅐-⅞]")
_SIGNS = {
    "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "÷": "/", "±": r"\pm ", "π": r"\pi ", "∞": r"\infty ",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
    "°": r"^\circ ", "θ": r"\theta ", "∅": r"\emptyset ", "⁄": "/", "∕": "/", "’": "'", "\u200b": "", "~": " ",
    **dict.fromkeys("\u00a0\u2007\u2009\u202f", " "), **dict.fromkeys("£€¥₹", ""),
    **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
}  # fmt: skip
_UNICODE = str.maketrans(_SIGNS)
_RAISED, _LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "₀₁₂₃₄₅₆₇₈₉"
_RAISED_AS, _LOWERED_AS = str.maketrans(_RAISED, "0123456789+-n"), str.maketrans(_LOWERED, "0123456789")
_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf|it)|mbox|operatorname)\s*\{([^{}]*)\}")
_STATED_OF_VALUE = re.compile(
    r"[^\s{]\s*\\text\{\s*(?:is|are|was|were)\b(?!(?: the| my| our)?(?: final| correct| right)*(?: answers?)?[.\s]*\})"
    r"|\\text\{[^{}]*?(?:\bnot|n't|\bnever|\bwrong|\bincorrect)\b"
)
r"""A statement in `\text{…}` about a value, other than that it is the answer."""
_LINE_BREAK = re.compile(r"\s*\\(?:\\(?![a-zA-Z]{2})(?:\[[^\[\]]{0,9}\])?|newline(?![a-zA-Z]))\s*")
_EXPONENT = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([-+]?\d{1,4})(?!\w)")
_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|\\[,!;:]| )(?=\d{3}(?!\d))")
_MIXED = re.compile(r"(-?\d+)\s+(\d+)/(\d+)")
_WORDS = re.compile(r"[^\W\d_]+(?:(?: |, |'|-)[^\W\d_]+)*")
_CHOICE = re.compile(r"\(([A-Ja-j])\)|([A-J])")
_CHOSEN = re.compile(
    r"(?:(?:option|choice) )?(?:\(([A-Ja-j])\)(?!\w).*|([A-J])(?:[.:)](?!\w).*| (?:because|since|as) .*)?)",
    re.DOTALL,
)
_NAMED_CHOICE = re.compile(r"(?<![\w)])\(([A-Ja-j])\)(?!\w)|(?<![\w(])([A-J])[.:)](?=\s+\S)")
_BETWEEN_CHOICES = re.compile(r", (?:and )?| and |,")
_EQUALS = re.compile(r"(?<![\\<>!:=])=(?!=)")
_ARITHMETIC = re.compile(r"(?:[\d\s+\-*/^().,{}]|\\(?:d?frac|times|cdot|div|left|right|sqrt)(?![a-z]))+")
_LAST_FORMULA = re.compile(
    r"(?:\$([^$\n]+)\$|\\\(([^\n]{1,200}?)\\\)|\\\[(.{1,200}?)\\\])[\s.$*]*$", re.DOTALL
)
_LAST_LINE = re.compile(
    r"(?:^|\n)[ *]*(?:(?:so|then|thus|hence|therefore),? )?(\d[^\n=a-zA-Z]{0,200}=[^\n=a-zA-Z]{1,200})$", re.I
)
MAX_ANSWER = 500  # characters; longer gold answers are not readable
_MAX_DEPTH = 30  # of nested brackets, on which a parser may spend minutes
_JUXTAPOSED = re.compile(r"\d\s+\d")  # 2 1/2: a mixed number to people, a product to the parser
_NOT_GIVEN = ("nan", "n/a", "<na>", "null")
_MAX_WORDS = 4  # a gold answer of more words is prose and not readable
_MAX_NAME = 3  # up to so many adjacent letters may be a product, as in `xy`
_SHORT_WORDS = re.compile("all|any|both|no|odd|off|on|red|yes|mon|tue|wed|thu|fri|sat|sun")


def normalized(answer: str) -> str:
    """The answer without markup, in LaTeX that math-verify parses."""
    answer = with_plain_minus(answer).strip().strip("*`").strip()
    answer = _VULGAR.sub(lambda m: " " + unicodedata.normalize("NFKC", m[0]), answer)
    answer = re.sub(f"[{_RAISED}]+", lambda m: f"^{{{m[0].translate(_RAISED_AS)}}}", answer)
    answer = re.sub(f"[{_LOWERED}]+", lambda m: f"_{{{m[0].translate(_LOWERED_AS)}}}", answer)
    answer = re.sub(r"√\s*(?:\(([^()]*)\)|(\d+|\w))", lambda m: rf"\sqrt{{{m[1] or m[2]}}}", answer)
    answer = answer.translate(_UNICODE).replace(r"\$", "").replace("$", "").strip()
    answer = re.sub(r"\\(?:boldsymbol|bm)\s*(?=\{)", "", answer)
    answer = re.sub(r"(?i)\binfinity\b", r"\\infty", answer)
    answer = re.sub(r"(\d*)\.(\d*)\\overline\{(\d{1,9})\}", _repeating, answer)
    if r"\begin" not in answer:  # in a matrix, `\\` separates rows
        answer = _LINE_BREAK.sub(", ", answer).strip(", ")
    answer = _THOUSANDS.sub("", answer).rstrip(".").strip()
    answer = _EXPONENT.sub(lambda m: rf"{m[1]} \times 10^{{{m[2]}}}", answer)
    mixed = _MIXED.fullmatch(answer)
    return rf"{mixed[1]}\frac{{{mixed[2]}}}{{{mixed[3]}}}" if mixed else answer


def _repeating(decimal: re.Match[str]) -> str:
    r"""`0.1\overline{6}` as a fraction."""
    whole, fixed, period = decimal[1] or "0", decimal[2], decimal[3]
    below = 10 ** len(fixed) * (10 ** len(period) - 1)
    above = int(whole + fixed + period) - int(whole + fixed)
    return rf"\frac{{{above}}}{{{below}}}"


@dataclass(frozen=True)
class Answer:
    """One answer, and the ways in which it can be read."""

    raw: str

    @cached_property
    def normalized(self) -> str:
        return normalized(self.raw)

    @cached_property
    def plain(self) -> str:
        r"""Without `\text{…}` around words and without redundant white space."""
        return " ".join(_TEXT.sub(r"\1", self.normalized).split()).strip("\"' ")

    @cached_property
    def number(self) -> Fraction | None:
        found = as_number(self.raw.strip().strip("*`")) if "\n" not in self.raw.strip() else None
        if found is None:
            found = as_number(self.plain)
        words = spelled_out(self.plain) if found is None else None
        return found if words is None else Fraction(words)

    @cached_property
    def words(self) -> str | None:
        """Its words, where they cannot be a product of letters; they are compared as text."""
        if _WORDS.fullmatch(self.plain) is None:
            return None
        words = self.plain.casefold()
        named = any(len(word) > _MAX_NAME or _SHORT_WORDS.fullmatch(word) for word in words.split())
        return words if named or self.plain != self.normalized else None

    @cached_property
    def is_statement(self) -> bool:
        """Whether it states something about a value, such as that it is wrong."""
        return _STATED_OF_VALUE.search(self.normalized) is not None

    @cached_property
    def is_prose(self) -> bool:
        """Whether it is a sentence rather than an answer."""
        letters = re.sub(r"\\[a-zA-Z]+", " ", self.plain)
        return len(re.findall(r"[^\W\d_]{2,}", letters)) > _MAX_WORDS

    @cached_property
    def choices(self) -> frozenset[str]:
        """The letters, where it consists of choice letters only."""
        found = [_CHOICE.fullmatch(part) for part in _BETWEEN_CHOICES.split(self.plain)]
        return frozenset((one[1] or one[2]).upper() for one in found if one) if all(found) else frozenset()

    @cached_property
    def chosen(self) -> frozenset[str]:
        """The choices that it names, perhaps with what they stand for: `(C) 12`. `(A) or (B)` names two."""
        one = _CHOSEN.fullmatch(self.plain)
        if one is None:
            return self.choices
        others = (found[1] or found[2] for found in _NAMED_CHOICE.finditer(self.plain))
        return frozenset(letter.upper() for letter in (one[1] or one[2], *others))

    @cached_property
    def parsed(self) -> list[Any]:
        """As math-verify parses it. Its time limits are off: they would turn "took too long" into "wrong"."""
        from math_verify import parse

        if not self.normalized or _depth(self.normalized) > _MAX_DEPTH:
            return []
        return parse(rf"\boxed{{{self.normalized}}}", parsing_timeout=None)

    @property
    def readable(self) -> bool:
        """Whether other answers can be compared with it."""
        if len(self.raw) > MAX_ANSWER or self.plain.casefold() in _NOT_GIVEN:
            return False
        if self.is_prose or self.number is not None:
            return self.number is not None
        return self.words is not None or bool(self.parsed)


def _depth(text: str) -> int:
    """The depth of nested brackets, closed or not."""
    depth = deepest = 0
    for character in text:
        depth = max(0, depth + (character in "([{") - (character in ")]}"))
        deepest = max(deepest, depth)
    return deepest


def same(given: Answer, gold: Answer) -> bool:
    """Whether the given answer is the gold one, which is `readable`."""
    from math_verify import verify

    if given.number is not None and gold.number is not None and _equal(given, gold):
        return True
    if gold.choices and given.chosen:
        return given.chosen == gold.choices
    as_text = gold.words is not None or given.words is not None
    if as_text or gold.is_statement or given.is_statement:
        return given.plain.casefold() == gold.plain.casefold()
    if not _EQUALS.search(gold.normalized) and not settles(given.normalized):
        return False
    exact, about, approximate = (part.strip() for part in given.normalized.partition(r"\approx"))
    if about and r"\approx" not in gold.normalized:  # `\pi \approx 3.14` gives both, which must agree
        return _agree(exact, approximate) and (same(Answer(exact), gold) or same(Answer(approximate), gold))
    return verify(gold.parsed, given.parsed, timeout_seconds=None, allow_set_relation_comp=True)


def same_in_text(text: str, gold: Answer) -> bool:
    """Whether the last expression in the text is the gold answer, which is `readable`."""
    from math_verify import parse, verify

    last = _LAST_FORMULA.search(text) or _LAST_LINE.search(text)
    formula = Answer(next(filter(None, last.groups())) if last else "")
    if formula.is_statement or (_LINE_BREAK.search(formula.raw) and r"\begin" not in formula.raw):
        return same(formula, gold)
    if not _EQUALS.search(gold.normalized) and not settles(formula.normalized):
        return False
    text = _EXPONENT.sub(lambda m: rf"{m[1]} \times 10^{{{m[2]}}}", with_plain_minus(text))
    if _depth(text) > _MAX_DEPTH:
        return False
    return verify(gold.parsed, parse(text, parsing_timeout=None), timeout_seconds=None)


def _equal(given: Answer, gold: Answer) -> bool:
    """As numbers. Where only one of both has a percent sign, 50 %, 50 and 0.5 are equal."""
    mine, right = given.number, gold.number
    assert mine is not None
    assert right is not None
    if ("%" in given.raw) == ("%" in gold.raw):
        return mine == right
    return mine == right or (mine == 100 * right if "%" in given.raw else 100 * mine == right)


def settles(answer: str) -> bool:
    """Whether an equation determines a value. True for an answer without `=`.

    Arithmetic must be true up to rounding, and a single unknown must stand alone: `3x = 18` does not determine x, but
    `m + n = 113` determines what was asked for.
    """
    sides = [side.strip() for side in _EQUALS.split(answer)]
    if len(sides) < 2:
        return True
    known = [side for side in sides if _ARITHMETIC.fullmatch(side) and not _JUXTAPOSED.search(side)]
    if any(not _agree(left, right) for left, right in itertools.pairwise(known)):
        return False
    parsed = Answer(sides[0]).parsed
    if sides[0] in known or not parsed or isinstance(parsed[0], str):
        return True
    unknowns, expression = parsed[0].free_symbols, parsed[0]
    return (
        len(unknowns) != 1
        or expression.is_Symbol
        or not (expression.is_Add or expression.is_Mul or expression.is_Pow)
    )


def _agree(left: str, right: str) -> bool:
    from math_verify import verify

    if verify(Answer(left).parsed, Answer(right).parsed, timeout_seconds=None):
        return True
    try:
        mine, given = float(Answer(left).parsed[0]), float(Answer(right).parsed[0])
    except (TypeError, ValueError, IndexError, OverflowError):
        return True  # not arithmetic
    decimals = re.fullmatch(r"-?[\d,]*\.(\d+)", right)
    if decimals is not None:
        return abs(mine - given) <= 0.5000001 * 10.0 ** -len(decimals[1])
    return not mine.is_integer() and given.is_integer() and abs(mine - given) < 1  # rounded up or down
