"""Preferences between two answers: by a judge at an endpoint, asked in both orders, or by a reward model."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hone.endpoint import Endpoint, EndpointError, EndpointRefused
from hone.errors import ConfigError, GeneratorError
from hone.rollout.rewards.reward_model import RewardModel
from hone.rollout.rewards.text import after_thought

TEMPLATE = """Two assistants answered the same request. Decide which answer serves the request better. The order in
which they are shown, their length and their tone must not matter.

Request:
{prompt}

Answer 1:
{first}

Answer 2:
{second}

Explain briefly. End your reply with one line: "Verdict: 1", "Verdict: 2" or "Verdict: tie"."""
_VERDICT = re.compile(r"[Vv]erdict:\s*\**\s*\[*(1|2|tie)\b", re.IGNORECASE)
_PREFERS_SECOND = {"1": 0.0, "2": 1.0, "tie": 0.5}


@dataclass(frozen=True)
class Pair:
    """Two models' answers to one problem."""

    id: str
    prompt: Any
    """Text or messages."""
    a: str
    b: str


@dataclass(frozen=True)
class Verdict:
    """The outcome for one pair."""

    preference: float | None
    """1: B's answer, 0: A's, 0.5: a tie; None: there is no verdict."""
    inconsistent: bool = False
    """The judge preferred the same position in both orders."""
    replies: tuple[str, ...] = ()
    failure: str | None = None


def ask_judge(
    pairs: Sequence[Pair], endpoint: Endpoint, model: str, template: str = TEMPLATE
) -> list[Verdict]:
    """A verdict on each pair, each asked twice, with A and with B first. Where the two disagree by position it is a
    tie. Raises ConfigError for a template without the answers, GeneratorError for a judge that is down."""
    if missing := [name for name in ("{prompt}", "{first}", "{second}") if name not in template]:
        raise ConfigError(f"--judge_template has no {', '.join(missing)}, so the judge would not see it")
    verdicts = asyncio.run(_ask_all(pairs, endpoint, model, template))
    if all(verdict.preference is None for verdict in verdicts):
        raise GeneratorError(f"the judge gave no verdict on any of {len(pairs)} pairs: {verdicts[0].failure}")
    return verdicts


async def _ask_all(pairs: Sequence[Pair], endpoint: Endpoint, model: str, template: str) -> list[Verdict]:
    try:
        async with endpoint.session():
            return await asyncio.gather(*(_ask(pair, endpoint, model, template) for pair in pairs))
    except EndpointRefused as error:
        raise GeneratorError(f"{error}: see --judge, --judge_model and --judge_key_env") from error


async def _ask(pair: Pair, endpoint: Endpoint, model: str, template: str) -> Verdict:
    async def preference(first: str, second: str) -> tuple[float, str]:
        named = {"prompt": _text(pair.prompt), "first": first, "second": second}
        question = re.sub(r"\{(prompt|first|second)\}", lambda found: named[found[1]], template)
        body = {"model": model, "messages": [{"role": "user", "content": question}], "temperature": 0.0}
        reply = str((await endpoint.complete("/chat/completions", body))["choices"][0]["message"]["content"])
        found = _VERDICT.findall(after_thought(reply))
        if not found:
            raise EndpointError(f"judge gave no verdict: {reply[-200:]!r}")
        return _PREFERS_SECOND[found[-1].lower()], reply

    try:
        (b_second, one), (a_second, other) = await asyncio.gather(
            preference(pair.a, pair.b), preference(pair.b, pair.a)
        )
    except EndpointRefused:
        raise
    except (EndpointError, LookupError, TypeError) as error:
        return Verdict(None, failure=str(error))
    same_position = b_second == a_second != 0.5
    return Verdict((b_second + 1 - a_second) / 2, same_position, (one, other))


def ask_reward_model(pairs: Sequence[Pair], model: RewardModel) -> list[Verdict]:
    """The answer with the higher score is preferred; equal scores are a tie."""
    prompts = [pair.prompt for pair in pairs]
    conversational = [not isinstance(prompt, str) for prompt in prompts]

    def scores(answers: Sequence[str]) -> list[float]:
        messages = [
            [{"role": "assistant", "content": text}] if chat else text
            for text, chat in zip(answers, conversational, strict=True)
        ]
        return model.score(prompts, messages)

    both = zip(scores([pair.a for pair in pairs]), scores([pair.b for pair in pairs]), strict=True)
    return [Verdict(0.5 if a == b else float(b > a), replies=(f"{a:.6g}", f"{b:.6g}")) for a, b in both]


def _text(prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message.get('role', '')}: {message.get('content', '')}" for message in prompt)


def as_record(pair: Pair, verdict: Verdict) -> Mapping[str, Any]:
    """A line of the file of verdicts."""
    return {"id": pair.id, "prompt": pair.prompt, "a": pair.a, "b": pair.b, **vars(verdict)}
