"""The body of a generator process: it answers calls of an `EngineWorker`, and sends a heartbeat meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]
from typing import Any

from hone.engine.distributed.heartbeat import HEARTBEAT
from hone.engine.distributed.worker import EngineWorker
from hone.engine.generator_process import BEAT_S, serves_requests
from hone.engine.local.generator import LocalGenerator
from hone.engine.local.request_generator import RequestGenerator
from hone.engine.requests import requests_of
from hone.subprocesses import end_with_parent
from hone.types import Completion, Prompt, Sampling

BETWEEN_TOKENS = ("receive_weights", "abort")
"""Calls that are answered between two tokens of a `generate` that is running."""
Call = tuple[int, str, tuple[Any, ...]]
"""Its number, the method, and the arguments."""


def main(descriptor: int, log: str) -> None:
    """Answer calls until the parent ends. The first one builds the generator."""
    end_with_parent(os.dup(0))
    link = Link(Connection(descriptor))
    worker = EngineWorker(0, os.getcwd(), log, lambda: link.answer_between_tokens(worker))
    first = link.take()
    link.answer(first, lambda: getattr(worker, first[1])(*first[2]))
    if worker.generator is not None and serves_requests(first[2][0]):
        asyncio.run(serve(link, worker))
    while True:
        link.answer_with(worker, link.take())


class Link:
    """The connection to the parent. Threads read calls and send heartbeats."""

    def __init__(self, channel: Connection) -> None:
        self.channel, self._lock = channel, threading.Lock()
        self._calls: deque[Call] = deque()
        self._arrived = threading.Semaphore(0)
        for work in (self._beat, self._read):
            threading.Thread(target=work, daemon=True, name=work.__name__).start()

    def take(self) -> Call:
        """The next call."""
        self._arrived.acquire()
        return self._calls.popleft()

    def answer_with(self, worker: EngineWorker, call: Call) -> None:
        """Have the worker's method of a call answer it."""
        self.answer(call, lambda: getattr(worker, call[1])(*call[2]))

    def answer_between_tokens(self, worker: EngineWorker) -> None:
        """Answer the calls that are next, as far as they may be answered while completions are sampled."""
        while self._calls and self._calls[0][1] in BETWEEN_TOKENS and self._arrived.acquire(blocking=False):
            self.answer_with(worker, self._calls.popleft())

    def answer(self, call: Call, work: Callable[[], Any]) -> None:
        """Send what `work` returns or raises."""
        try:
            self.send(call[0], work())
        except Exception as error:  # raised again in the parent, with this traceback as its cause
            self.send(call[0], ExceptionWithTraceback(error, error.__traceback__))

    def send(self, number: int, result: Any) -> None:
        """Send the result of a call, or as number 0 a heartbeat."""
        with self._lock:
            self.channel.send((number, result))

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT_S)
            self.send(0, HEARTBEAT.count)

    def _read(self) -> None:
        with contextlib.suppress(EOFError, OSError):  # the parent has ended, and this process with it
            while True:
                self._calls.append(self.channel.recv())
                self._arrived.release()


async def serve(link: Link, worker: EngineWorker) -> None:
    """Decode all requests that are outstanding together; others join them at any token."""
    assert isinstance(worker.generator, LocalGenerator)
    running: dict[tuple[str, int], asyncio.Task[Any]] = {}
    answers: set[asyncio.Task[None]] = set()
    async with RequestGenerator(worker.generator) as requests:

        async def one(prompt: Prompt, sampling: Sampling) -> Completion:
            key = (prompt.id, prompt.first_completion)
            task = running[key] = asyncio.ensure_future(requests.generate_one(prompt, sampling))
            try:
                return await task
            finally:
                del running[key]

        async def respond(call: Call) -> Any:
            _, method, arguments = call
            if method == "generate":
                prompts, sampling, count = arguments
                wanted = requests_of(prompts, count)
                done = await asyncio.gather(*(one(prompt, sampling) for prompt in wanted))
                return [done[i : i + count] for i in range(0, len(done), count)]
            if method == "abort":
                for key in arguments[0]:
                    if key in running:
                        running[key].cancel()
                return None
            async with requests.paused():
                return getattr(worker, method)(*arguments)

        async def answer(call: Call) -> None:
            try:
                result = await respond(call)
            except asyncio.CancelledError:  # aborted: nobody waits for it
                result = None
            except Exception as error:
                result = ExceptionWithTraceback(error, error.__traceback__)
            link.send(call[0], result)

        while True:
            task = asyncio.ensure_future(answer(await asyncio.to_thread(link.take)))
            answers.add(task)
            task.add_done_callback(answers.discard)
