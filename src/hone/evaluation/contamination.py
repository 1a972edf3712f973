"""Which problems of a suite are in a training file: overlap of word n-grams, as GPT-3's authors measured it.

Brown et al. 2020 (arXiv 2005.14165, appendix C): a problem is contaminated if any of its n-grams occurs in the training
data, in lower case and without punctuation. n is the 5th percentile of the problems' lengths in words, at least 8 and
at most 13. A shorter problem is looked for as a whole. A Chinese, Japanese or Korean character is a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

SMALLEST, LARGEST = 8, 13
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
)


@dataclass(frozen=True)
class Contamination:
    """The result for one suite."""

    ngram: int
    found: dict[int, str]
    """Numbers of the contaminated problems, each with the n-gram that was found first."""


def words_of(text: str) -> list[str]:
    """Words in lower case, without punctuation."""
    return _WORD.findall(text.casefold())


def find_contamination(problems: Sequence[str], training: Iterable[str]) -> Contamination:
    """Which of the problems occur in the texts of the training data."""
    words = [words_of(problem) for problem in problems]
    lengths = sorted(map(len, words))
    n = min(LARGEST, max(SMALLEST, lengths[len(lengths) * 5 // 100]))
    wanted: dict[tuple[str, ...], list[int]] = {}
    for i, one in enumerate(words):
        for gram in ngrams(one, min(n, len(one))) if one else ():
            wanted.setdefault(gram, []).append(i)
    sizes = sorted({len(gram) for gram in wanted})
    found: dict[int, str] = {}
    for text in training:
        sequence = words_of(text)
        for size in sizes:
            for gram in ngrams(sequence, size):
                for i in wanted.get(gram, ()):
                    found.setdefault(i, " ".join(gram))
    return Contamination(n, dict(sorted(found.items())))


def ngrams(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    """All runs of n words."""
    return (tuple(words[i : i + n]) for i in range(len(words) - n + 1))
