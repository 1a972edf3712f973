"""Draft tokens: what followed the same tokens before."""

from __future__ import annotations

import random

from hone.engine.local.drafts import SHORTEST, NgramDrafter


def test_what_followed_the_last_tokens_is_proposed() -> None:
    assert NgramDrafter(4).propose([1, 2, 3, 9, 8, 1, 2, 3], 2) == [9, 8]
    assert NgramDrafter(4).propose([1, 2, 3, 9, 8, 1, 2, 3], 9) == [9, 8, 1, 2, 3]
    assert NgramDrafter(4).propose([1, 2, 3, 4], 2) == []
    assert NgramDrafter(4).propose([7, 1, 7], 2) == []  # one token alone says little


def test_the_longest_text_counts_then_the_latest() -> None:
    text = [1, 2, 3, 50, 2, 3, 60, 2, 3, 70, 1, 2, 3]
    assert NgramDrafter(3).propose(text, 1) == [50]
    assert NgramDrafter(2).propose(text, 1) == [70]


def test_a_growing_text_gives_what_a_search_of_the_whole_gives() -> None:
    def searched(text: list[int], longest: int, count: int) -> list[int]:
        for size in range(min(longest, len(text)), SHORTEST - 1, -1):
            for end in range(len(text) - 1, size - 1, -1):
                if text[end - size : end] == text[-size:]:
                    return text[end : end + count]
        return []

    generator = random.Random(0)
    drafter, text = NgramDrafter(3), []
    for _ in range(300):
        text += [generator.randrange(4) for _ in range(generator.randrange(1, 4))]
        assert drafter.propose(text, 3) == searched(text, 3, 3)
