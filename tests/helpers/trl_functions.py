"""Reward functions of every shape that TRL documents for GRPO, each as a user would write it for TRL."""

import asyncio
import re
import time


def by_tokens(completion_ids, **kwargs):
    return [float(len(ids)) for ids in completion_ids]


def by_characters(completions, **kwargs):
    return [float(len(completion)) for completion in completions]


async def after_a_wait(prompts, completions, **kwargs):
    await asyncio.sleep(0.5)
    return [1.0 if completion else 0.0 for completion in completions]


async def after_another_wait(prompts, completions, **kwargs):
    await asyncio.sleep(0.5)
    return [0.5 for _ in completions]


async def after_a_third_wait(prompts, completions, **kwargs):
    await asyncio.sleep(0.5)
    return [0.25 for _ in completions]


def with_logs(completions, ground_truth, log_extra=None, log_metric=None, **kwargs):
    found = [re.search(r"\\boxed\{(.*?)\}", completion) for completion in completions]
    found = [match.group(1) if match else None for match in found]
    rewards = [1.0 if answer == truth else 0.0 for answer, truth in zip(found, ground_truth, strict=True)]
    if log_extra:
        log_extra("truth", list(ground_truth))
        log_extra("found", [answer or "[none]" for answer in found])
    if log_metric:
        log_metric("accuracy", sum(rewards) / len(rewards))
    return rewards


def harder_over_time(prompts, completions, completion_ids, trainer_state, **kwargs):
    share = trainer_state.global_step / trainer_state.max_steps
    return [share * len(ids) for ids in completion_ids]


class Longer:
    """Options come to the constructor."""

    def __init__(self, than, worth=1.0):
        self.than = than
        self.worth = worth

    def __call__(self, completions, **kwargs):
        return [self.worth if len(completion) > self.than else 0.0 for completion in completions]


class LongerAsync(Longer):
    async def __call__(self, completions, **kwargs):
        await asyncio.sleep(0)
        return super().__call__(completions)


def get_longer(than):
    def longer(completions, **kwargs):
        return [float(len(completion) > than) for completion in completions]

    return longer


def not_callable(than):
    return than


def partly(completions, **kwargs):
    """One completion cannot be judged, which is no reason to stop."""
    return [TimeoutError("nobody answered") if c == "bad" else 1.0 for c in completions]


def needs_environments(environments, completions):
    return [0.0 for _ in completions]


def blocking(completions, **kwargs):
    time.sleep(0.5)
    return [0.0 for _ in completions]
