"""One accepted spelling of a setting: see `spellings` for the table."""

from __future__ import annotations

from dataclasses import dataclass

from hone.config.compat.nemo_rl.computed import Compute
from hone.config.compat.nemo_rl.rules import Switch
from hone.config.compat.nemo_rl.values import Translate


@dataclass(frozen=True)
class Spelling:
    """`path` as users write it; `value` translates, raising ValueError with the reason why it cannot.

    With `compute` it means something in terms of other keys, and `to` tells the reader what it sets.
    """

    path: str
    to: tuple[str, ...]
    value: Translate | None = None
    beats: tuple[str, ...] = ()
    when: Switch | None = None
    compute: Compute | None = None
