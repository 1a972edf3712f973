"""A game of many turns: guess a number from 1 to 20, told `more` or `less` each time.

hone sft  --config examples/environments/guess_sft.yaml
hone grpo --config examples/environments/guess.yaml
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

HIGHEST, TRIES = 20, 5
ASKED = [{"role": "user", "content": "Guess."}]


class Guess:
    """One game. 1 for the number within five tries, else 0. Halving what is left always finds it."""

    def reset(self, row: dict[str, Any]) -> None:
        self.number, self.tries = row["number"], 0

    def step(self, message: dict[str, Any]) -> tuple[str | None, float, bool]:
        self.tries += 1
        said = message["content"].strip()
        if said == str(self.number):
            return None, 1.0, True
        if not said.isdecimal():
            return None, 0.0, True
        return ("more" if int(said) < self.number else "less"), 0.0, self.tries == TRIES


def games(count: int = 4000, seed: int = 0) -> list[dict[str, Any]]:
    """Rows to play: each has its number."""
    choose = random.Random(seed)
    return [{"prompt": ASKED, "number": choose.randint(1, HIGHEST)} for _ in range(count)]


def demonstrations(count: int = 8000, seed: int = 1) -> Iterator[dict[str, Any]]:
    """Games for SFT: in one of five the middle of what is possible is guessed, in the others any number."""
    choose = random.Random(seed)
    for _ in range(count):
        number, low, high = choose.randint(1, HIGHEST), 1, HIGHEST
        careful = choose.random() < 0.2
        messages = list(ASKED)
        for _ in range(TRIES):
            guess = (low + high) // 2 if careful else choose.randint(1, HIGHEST)
            messages.append({"role": "assistant", "content": str(guess)})
            if guess == number:
                break
            messages.append({"role": "user", "content": "more" if guess < number else "less"})
            if guess < number:
                low = max(low, guess + 1)
            else:
                high = min(high, guess - 1)
        else:
            messages.pop()
        yield {"messages": messages}
