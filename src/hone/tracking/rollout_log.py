"""Every rollout of a step as a line of JSON: prompt, completion, rewards, advantage. Failed and excluded rollouts are
written too, with the reason (`failure`, `excluded`).

A text longer than LONGEST is cut in its middle (`cut` counts the missing characters), so that long completions do not
fill the disk. docs/seeing.md says what each key means.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import compress, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hone.config.secrets import SECRETS
from hone.files import write_atomically

if TYPE_CHECKING:
    from hone.types import Group, Rollout

ANSWER_COLUMNS = ("answer", "solution", "ground_truth", "target", "label")
"""Columns of a row that hold the right answer; the first that the row has is written."""
LONGEST = 100_000
"""Characters of a text that are kept: more than a completion of 24,000 tokens has."""


class Decoder(Protocol):
    """What is used of a tokenizer."""

    def decode(self, token_ids: list[int]) -> str: ...


def write_rollouts(path: Path, step: int, groups: Iterable[Group], tokenizer: Decoder | None = None) -> None:
    """Write the rollouts of a step to `path` as JSON Lines, whole or not at all.

    With a tokenizer each line also holds `raw_prompt` and `raw_completion`: the decoded tokens, special ones included.
    Raises OSError when the file cannot be written.
    """
    lines = [
        json.dumps(_record(step, group, rollout, tokenizer), ensure_ascii=False, default=str)
        for group in groups
        for rollout in group.rollouts
    ]
    # Half a surrogate pair, which a row's JSON may hold, is no UTF-8: it is written as "?".
    write_atomically(path, "".join(f"{line}\n" for line in lines).encode("utf-8", "replace"))


def _record(step: int, group: Group, rollout: Rollout, tokenizer: Decoder | None) -> dict[str, Any]:
    from hone.endpoint_completion import length_of  # with torch, which commands that only read do without

    prompt, completion = rollout.prompt, rollout.completion
    answer = next((name for name in ANSWER_COLUMNS if name in prompt.row), None)
    sampled = list(compress(completion.logprobs, completion.mask or repeat(True)))
    record: dict[str, Any] = {
        "step": step,
        "group": group.id,
        "prompt": prompt.content,
        "completion": rollout.text,
        "rewards": rollout.rewards,
        "reward": rollout.reward,
        "advantage": rollout.advantage,
        "finish": completion.finish,
        "num_tokens": length_of(completion),
        "logprob": sum(sampled) / len(sampled) if sampled else None,
        "version": completion.version,
        "failure": rollout.failure,
        "excluded": rollout.excluded,
        "answer": prompt.row[answer] if answer is not None else None,
    }
    if len({span.version for span in completion.versions}) > 1:
        record["versions"] = [list(span) for span in completion.versions]
    if rollout.messages is not None:
        record["messages"] = rollout.messages
        record["turns"] = sum(message.get("role") == "assistant" for message in rollout.messages)
        record["num_sampled"] = completion.num_sampled
    if rollout.extra:
        record["extra"] = rollout.extra
    if tokenizer is not None:
        record["raw_prompt"] = tokenizer.decode(list(prompt.tokens))
        record["raw_completion"] = tokenizer.decode(list(completion.tokens))
    missing = [0]
    record = {name: _shortened(value, missing) for name, value in record.items()}
    return record | ({"cut": missing[0]} if missing[0] else {})


def _shortened(value: Any, missing: list[int]) -> Any:
    """The value without secrets of the settings, its long texts cut in the middle; the number of characters removed is
    added to `missing`."""
    if isinstance(value, str):
        value = SECRETS.hide(value)
        over = len(value) - LONGEST
        if over <= 0:
            return value
        missing[0] += over
        return f"{value[: LONGEST // 2]} […] {value[-LONGEST // 2 :]}"
    if isinstance(value, dict):
        return {key: _shortened(item, missing) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shortened(item, missing) for item in value]
    return value
