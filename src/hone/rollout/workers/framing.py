"""How messages travel between processes: a length in 8 bytes, then as many bytes. A length is believed up to a bound.

The standard library alone is imported: the processes that use this start fast.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

LENGTH = struct.Struct(">Q")
REQUEST_BYTES = 4 << 30
"""The longest request. The run makes them, of its own data."""
REPLY_BYTES = 64 << 20
"""The longest reply: those who make them run code that meets what models wrote."""


class BadFrame(Exception):
    """What arrived is no message; says why."""


def framed(message: bytes, most: int = REQUEST_BYTES) -> bytes:
    """A message as it is sent. Raises BadFrame for one that nobody would read."""
    _check(len(message), most)
    return LENGTH.pack(len(message)) + message


def send(channel: socket.socket, message: bytes) -> None:
    """Send one message."""
    channel.sendall(framed(message))


def send_json(channel: socket.socket, message: Any) -> None:
    """Send one message as JSON."""
    send(channel, json.dumps(message).encode())


def reply(channel: socket.socket, answer: dict[str, Any], too_long: dict[str, Any]) -> None:
    """Send an answer as JSON; where it is too long to be read, another in its place."""
    message = json.dumps(answer).encode()
    send(channel, message if len(message) <= REPLY_BYTES else json.dumps(too_long).encode())


def receive(channel: socket.socket, most: int = REQUEST_BYTES) -> bytes | None:
    """The next message; None once the other side is gone. Raises BadFrame for one that is longer than `most` bytes."""
    header = exactly(channel, LENGTH.size)
    if header is None:
        return None
    size = LENGTH.unpack(header)[0]
    _check(size, most)
    return exactly(channel, size)


def exactly(channel: socket.socket, size: int) -> bytes | None:
    """So many bytes; None where the other side is gone before."""
    data = bytearray()
    while len(data) < size:
        part = channel.recv(min(size - len(data), 1 << 20))
        if not part:
            return None
        data += part
    return bytes(data)


class Inbox:
    """One reply as it arrives, part by part."""

    def __init__(self, most: int = REPLY_BYTES) -> None:
        self._most = most
        self._data = bytearray()

    def add(self, part: bytes) -> None:
        """Keep what has arrived. Raises BadFrame as soon as it is clear that it is no message."""
        self._data += part
        if len(self._data) >= LENGTH.size:
            size = LENGTH.unpack_from(self._data)[0]
            _check(size, self._most)
            if len(self._data) - LENGTH.size > size:
                raise BadFrame("a reply goes on behind its end")

    def message(self) -> bytes | None:
        """The reply's bytes, once all are there."""
        if len(self._data) < LENGTH.size or len(self._data) - LENGTH.size < LENGTH.unpack_from(self._data)[0]:
            return None
        return bytes(self._data[LENGTH.size :])

    def answer(self) -> dict[str, Any] | None:
        """The reply, once it is there. Raises BadFrame for what is no JSON object."""
        message = self.message()
        return None if message is None else parsed(message)


def parsed(message: bytes) -> dict[str, Any]:
    """A message that is a JSON object. Raises BadFrame for anything else."""
    try:
        found = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise BadFrame(f"a reply is no JSON: {str(error)[:100]}") from error
    if not isinstance(found, dict):
        raise BadFrame("a reply is no JSON object")
    return found


def _check(size: int, most: int) -> None:
    if size > most:
        raise BadFrame(f"a message of {size:,} bytes is longer than the {most:,} that are read")
