"""Every rollout of a step as a readable line: what was asked, what came, what each reward function said, and
what became of it. Failed and excluded ones too: the file says why (`failure`, `excluded`)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hone.tracking.folder import write_atomically

if TYPE_CHECKING:
    from hone.types import Group, Rollout

ANSWER_COLUMNS = ("answer", "solution", "ground_truth", "target", "label")
"""Columns of a row that say what would have been right; the first that the row has is written."""


class Decoder(Protocol):
    """The part of a tokenizer that is used."""

    def decode(self, token_ids: list[int]) -> str: ...


def write_rollouts(path: Path, step: int, groups: Iterable[Group], tokenizer: Decoder | None = None) -> None:
    """Write the rollouts of a step to `path` as JSON Lines, whole or not at all.

    With a tokenizer each line also holds `raw_prompt` and `raw_completion`: the very tokens, special ones
    included. Raises OSError when the file cannot be written.
    """
    lines = [
        json.dumps(_record(step, group, rollout, tokenizer), ensure_ascii=False, default=str)
        for group in groups
        for rollout in group.rollouts
    ]
    write_atomically(path, "".join(f"{line}\n" for line in lines))


def _record(step: int, group: Group, rollout: Rollout, tokenizer: Decoder | None) -> dict[str, Any]:
    prompt, completion = rollout.prompt, rollout.completion
    answer = next((name for name in ANSWER_COLUMNS if name in prompt.row), None)
    record: dict[str, Any] = {
        "step": step,
        "group": group.id,
        "prompt": prompt.content,
        "completion": rollout.text,
        "rewards": rollout.rewards,
        "reward": rollout.reward,
        "advantage": rollout.advantage,
        "finish": completion.finish,
        "num_tokens": len(completion.tokens),
        "version": completion.version,
        "failure": rollout.failure,
        "excluded": rollout.excluded,
        "answer": prompt.row[answer] if answer is not None else None,
    }
    if tokenizer is not None:
        record["raw_prompt"] = tokenizer.decode(list(prompt.tokens))
        record["raw_completion"] = tokenizer.decode(list(completion.tokens))
    return record
