"""A position in data that are not there, for the tests of where a step gets its rollouts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Position:
    """How many of `rows` are drawn."""

    drawn: int = 0
    rows: int = 1000
    epoch: int = 0

    @property
    def exhausted(self) -> bool:
        return self.drawn >= self.rows

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert set(state) == {"drawn"}
        self.drawn = state["drawn"]
