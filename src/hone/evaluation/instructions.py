"""IFEval's instructions: whether an answer follows them, decided by programs (Zhou et al. 2023, arXiv 2311.07911).

Written from the paper's descriptions (its Table 1). Where a description leaves room: words are runs of letters, digits
and apostrophes, sentences end at `.`, `!` or `?` before white space.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hone.errors import DataError

Check = Callable[[str, Mapping[str, Any]], bool]
_CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def followed(text: str, names: Sequence[str], arguments: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Whether each instruction is followed. An empty answer follows none. Raises DataError for an unknown one."""
    found = []
    for name, given in zip(names, arguments, strict=True):
        if (check := CHECKS.get(name)) is None:
            raise DataError(f"there is no instruction '{name}'; there are {', '.join(sorted(CHECKS))}")
        found.append(bool(text.strip()) and check(text, given))
    return found


def followed_loosely(text: str, names: Sequence[str], arguments: Sequence[Mapping[str, Any]]) -> list[bool]:
    """As `followed`, where any variant of the text counts: without asterisks, without its first line (an opening), its
    last line (a closing), or both."""
    lines = text.strip().split("\n")
    variants = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    variants += [variant.replace("*", "") for variant in variants]
    results = [followed(variant, names, arguments) for variant in variants]
    return [any(column) for column in zip(*results, strict=True)]


def _compared(count: int, given: Mapping[str, Any], relation: str, number: str) -> bool:
    return count < given[number] if given[relation] == "less than" else count >= given[number]


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'’]+", text)


def _sentences(text: str) -> list[str]:
    return [part for part in re.split(r"(?<=[.!?])[\"')\]]*\s+", text.strip()) if part]


def _count(word: str, text: str) -> int:
    return len(re.findall(rf"\b{re.escape(word)}\b", text, re.IGNORECASE))


def _has(word: str, text: str) -> bool:
    return word.casefold() in text.casefold()


def _paragraphs(text: str) -> list[str]:
    return [part for part in re.split(r"\n\s*\n", text.strip()) if part.strip()]


def _nth_paragraph(text: str, given: Mapping[str, Any]) -> bool:
    paragraphs, nth = _paragraphs(text), given["nth_paragraph"]
    if len(paragraphs) != given["num_paragraphs"] or not 1 <= nth <= len(paragraphs):
        return False
    words = _words(paragraphs[nth - 1])
    return bool(words) and words[0].casefold() == given["first_word"].casefold()


def _starred_paragraphs(text: str, given: Mapping[str, Any]) -> bool:
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", text)]
    parts = parts[parts[0] == "" : len(parts) - (parts[-1] == "")]
    return all(parts) and len(parts) == given["num_paragraphs"]


def _is_json(text: str, given: Mapping[str, Any]) -> bool:
    inner = re.sub(r"^```(?:json)?\s*|\s*```$", "", text.strip(), flags=re.IGNORECASE)
    try:
        json.loads(inner)
    except (ValueError, RecursionError):
        return False
    return True


def _highlights(text: str, given: Mapping[str, Any]) -> bool:
    found = re.findall(r"\*\*[^\n*]+\*\*|\*[^\n*]+\*", text)
    return sum(bool(part.strip("* ")) for part in found) >= given["num_highlights"]


def _two_responses(text: str, given: Mapping[str, Any]) -> bool:
    parts = [part.strip() for part in text.split("******")]
    parts = [part for i, part in enumerate(parts) if part or i not in (0, len(parts) - 1)]
    return len(parts) == 2 and all(parts) and parts[0] != parts[1]


def _repeats(text: str, given: Mapping[str, Any]) -> bool:
    return text.strip().casefold().startswith(given["prompt_to_repeat"].strip().casefold())


def _language(text: str, given: Mapping[str, Any]) -> bool:
    return language_of(text) == given["language"]


def language_of(text: str) -> str | None:
    """The ISO 639-1 code of the language of a text; None for a text without letters. Raises DataError without the
    package langdetect."""
    try:
        import langdetect
    except ImportError as error:
        raise DataError(
            "the language of an answer is found by langdetect: pip install 'hone[eval]'"
        ) from error
    langdetect.DetectorFactory.seed = 0
    try:
        return str(langdetect.detect(text))
    except langdetect.LangDetectException:
        return None


CHECKS: dict[str, Check] = {
    "keywords:existence": lambda t, a: all(_has(word, t) for word in a["keywords"]),
    "keywords:frequency": lambda t, a: _compared(_count(a["keyword"], t), a, "relation", "frequency"),
    "keywords:forbidden_words": lambda t, a: not any(_count(word, t) for word in a["forbidden_words"]),
    "keywords:letter_frequency": lambda t, a: _compared(
        t.casefold().count(a["letter"].casefold()), a, "let_relation", "let_frequency"
    ),
    "language:response_language": _language,
    "length_constraints:number_sentences": lambda t, a: _compared(
        len(_sentences(t)), a, "relation", "num_sentences"
    ),
    "length_constraints:number_words": lambda t, a: _compared(len(_words(t)), a, "relation", "num_words"),
    "length_constraints:number_paragraphs": _starred_paragraphs,
    "length_constraints:nth_paragraph_first_word": _nth_paragraph,
    "detectable_content:number_placeholders": lambda t, a: (
        len(re.findall(r"\[[^\]\n]+\]", t)) >= a["num_placeholders"]
    ),
    "detectable_content:postscript": lambda t, a: (
        re.search(rf"^\s*{re.escape(a['postscript_marker'])}", t, re.IGNORECASE | re.MULTILINE) is not None
    ),
    "detectable_format:number_bullet_lists": lambda t, a: (
        len(re.findall(r"^\s*(?:\*(?!\*)|-)\s*\S", t, re.MULTILINE)) == a["num_bullets"]
    ),
    "detectable_format:constrained_response": lambda t, a: any(option in t for option in _CONSTRAINED),
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": lambda t, a: (
        len(re.findall(rf"\b{re.escape(a['section_spliter'].strip())}\s?\d+\s?", t)) >= a["num_sections"]
    ),
    "detectable_format:json_format": _is_json,
    "detectable_format:title": lambda t, a: any(part.strip() for part in re.findall(r"<<([^\n]+?)>>", t)),
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeats,
    "startend:end_checker": lambda t, a: (
        t.strip().strip('"').casefold().endswith(a["end_phrase"].strip().casefold())
    ),
    "startend:quotation": lambda t, a: len(t.strip()) > 1 and t.strip()[0] == '"' and t.strip()[-1] == '"',
    "change_case:capital_word_frequency": lambda t, a: _compared(
        sum(word.isupper() for word in _words(t)), a, "capital_relation", "capital_frequency"
    ),
    "change_case:english_capital": lambda t, a: t.isupper() and language_of(t) in ("en", None),
    "change_case:english_lowercase": lambda t, a: t.islower() and language_of(t) in ("en", None),
    "punctuation:no_comma": lambda t, a: "," not in t,
}
