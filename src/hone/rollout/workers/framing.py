"""Messages between processes: 8 bytes of length, then the message. Lengths above a limit are rejected.

Imports the standard library only, so that child processes start fast.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

LENGTH = struct.Struct(">Q")
REQUEST_BYTES = 4 << 30
"""The longest request. Requests come from the run itself."""
REPLY_BYTES = 64 << 20
"""The longest reply. Replies come from processes that run user code on generated text."""


class FrameError(Exception):
    """The received bytes are not a valid message."""


def frame(message: bytes, max_bytes: int = REQUEST_BYTES) -> bytes:
    """The length and the message. Raises FrameError for a message longer than `max_bytes`."""
    _check(len(message), max_bytes)
    return LENGTH.pack(len(message)) + message


def send(channel: socket.socket, message: bytes) -> None:
    """Send one message."""
    channel.sendall(frame(message))


def send_json(channel: socket.socket, message: Any) -> None:
    """Send one message as JSON."""
    send(channel, json.dumps(message).encode())


def send_reply(channel: socket.socket, reply: dict[str, Any], too_long: dict[str, Any]) -> None:
    """Send a reply as JSON; send `too_long` instead of a reply longer than REPLY_BYTES."""
    message = json.dumps(reply).encode()
    send(channel, message if len(message) <= REPLY_BYTES else json.dumps(too_long).encode())


def receive(channel: socket.socket, max_bytes: int = REQUEST_BYTES) -> bytes | None:
    """The next message; None at the end of the stream. Raises FrameError for one longer than `max_bytes`."""
    if (header := receive_exactly(channel, LENGTH.size)) is None:
        return None
    size = LENGTH.unpack(header)[0]
    _check(size, max_bytes)
    return receive_exactly(channel, size)


def receive_with_descriptors(channel: socket.socket, max_descriptors: int) -> tuple[bytes, list[int]] | None:
    """The next message and the file descriptors sent with it; None at the end of the stream."""
    header, descriptors, _, _ = socket.recv_fds(channel, LENGTH.size, max_descriptors)
    message = receive_exactly(channel, LENGTH.unpack(header)[0]) if len(header) == LENGTH.size else None
    return None if message is None else (message, descriptors)


def receive_exactly(channel: socket.socket, size: int) -> bytes | None:
    """`size` bytes; None if the stream ends before."""
    data = bytearray()
    while len(data) < size:
        if not (part := channel.recv(min(size - len(data), 1 << 20))):
            return None
        data += part
    return bytes(data)


class FrameReader:
    """Assembles one reply from received parts."""

    def __init__(self, max_bytes: int = REPLY_BYTES) -> None:
        self._max_bytes = max_bytes
        self._data = bytearray()

    def add(self, part: bytes) -> None:
        """Append received bytes. Raises FrameError as soon as they cannot be one message."""
        self._data += part
        if (size := self._size()) is not None:
            _check(size, self._max_bytes)
            if len(self._data) - LENGTH.size > size:
                raise FrameError("a reply continues after its end")

    def message(self) -> bytes | None:
        """The reply, once it is complete."""
        size = self._size()
        complete = size is not None and len(self._data) - LENGTH.size >= size
        return bytes(self._data[LENGTH.size :]) if complete else None

    def _size(self) -> int | None:
        return LENGTH.unpack_from(self._data)[0] if len(self._data) >= LENGTH.size else None


def parse_object(message: bytes) -> dict[str, Any]:
    """A message that is a JSON object. Raises FrameError for anything else."""
    try:
        found = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"a reply is not JSON: {str(error)[:100]}") from error
    if not isinstance(found, dict):
        raise FrameError("a reply is not a JSON object")
    return found


def _check(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise FrameError(f"a message of {size:,} bytes exceeds the limit of {max_bytes:,}")
