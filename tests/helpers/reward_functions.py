"""Reward functions for the tests, good and bad. What a completion says decides what happens to it."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time

from hone.rollout.rewards import log_metric as imported_log_metric

calls = 0


def length(completions, **kwargs):
    return [float(len(c)) for c in completions]


def troubled(completions, log_metric=None, **kwargs):
    """len(completion), unless it asks for trouble."""
    rewards = []
    for completion in completions:
        word = completion.split()[0] if completion else ""
        if word == "hang":
            while True:
                pass
        elif word == "sleep":
            time.sleep(float(completion.split()[1]))
        elif word == "regex":
            re.match(r"(a+)+$", "a" * 60 + "b")  # holds the interpreter's lock for years
        elif word == "exit":
            os._exit(3)
        elif word == "fork":
            if os.fork() == 0:
                time.sleep(60)  # with the worker's end of the channel open
            os._exit(3)
        elif word == "sysexit":
            sys.exit("enough")
        elif word == "segfault":
            ctypes.string_at(0)
        elif word == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif word == "raise":
            raise ValueError(f"cannot score {completion!r}")
        elif word == "memory":
            bytearray(8 << 30)
        elif word == "nan":
            rewards.append(float("nan"))
            continue
        elif word == "inf":
            rewards.append(float("-inf"))
            continue
        elif word == "none":
            rewards.append(None)
            continue
        elif word == "child":
            subprocess.Popen(["sleep", "300"], start_new_session=False)
            while True:
                pass
        elif word == "daemon":  # it leaves the worker's session and group, and its parent
            subprocess.run(["setsid", "--fork", "sleep", "300"], check=True)
            while True:
                pass
        elif word == "reply":  # a length that promises what never comes
            _own_channel().sendall(int(completion.split()[1]).to_bytes(8, "big") + b"x" * 1000)
            time.sleep(60)
        elif word == "garble":
            _own_channel().sendall((4).to_bytes(8, "big") + b"{{{{")
            time.sleep(60)
        elif word == "report":
            log_metric("x" * (70 << 20), 1.0)
        elif word == "print":
            print("x" * 1_000_000)
            print("the last words", file=sys.stderr)
        rewards.append(float(len(completion)))
    return rewards


def _own_channel():
    """The worker's own socket, as a completion that took over the worker would find it."""
    import gc
    import socket

    return next(one for one in gc.get_objects() if isinstance(one, socket.socket) and one.fileno() >= 0)


def too_few(completions, **kwargs):
    return [1.0] * (len(completions) - 1)


def scalar(completions, **kwargs):
    return 1.0


def mapping(completions, **kwargs):
    return dict.fromkeys(range(len(completions)), 1.0)


def unordered(completions, **kwargs):
    return {float(i) for i in range(len(completions))}


def words(completions, **kwargs):
    return ["good"] * len(completions)


def numpy_rewards(completions, **kwargs):
    import numpy as np

    return np.array([len(c) for c in completions], dtype=np.float32)


async def asynchronous(completions, **kwargs):
    import asyncio

    async def one(completion):
        await asyncio.sleep(0.05)
        return float(len(completion))

    return await asyncio.gather(*(one(c) for c in completions))


def by_keyword(prompts, completions, completion_ids, target, scale=1.0):
    assert len(prompts) == len(completions) == len(completion_ids) == len(target)
    return [scale * (len(p) + len(i) + t) for p, i, t in zip(prompts, completion_ids, target, strict=True)]


def trl_style(prompts, completions, completion_ids, trainer_state, log_extra, log_metric, **kwargs):
    log_metric("at_step", trainer_state.global_step)
    log_extra("size", [len(c) for c in completions])
    log_metric("mean_length", sum(map(len, completions)) / len(completions))
    imported_log_metric("called", 1.0)
    return [0.0] * len(completions)


def chunk_sizes(completions, **kwargs):
    return [float(len(completions))] * len(completions)


def slow(completions, **kwargs):
    time.sleep(0.12 * len(completions))
    return [1.0] * len(completions)


def shapeless(x):
    return x


class Callable:
    def __call__(self, completions, **kwargs):
        return [2.0] * len(completions)


instance = Callable()


def named(completions, log_metric, name, **kwargs):
    log_metric(name, 1.0)
    return [0.0] * len(completions)


def short_extra(completions, log_extra, **kwargs):
    log_extra("size", [len(completions)])
    return [0.0] * len(completions)
