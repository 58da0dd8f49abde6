"""What passes between a program and its worker processes: values in frames, never a pickle.

A frame is four bytes of length and one msgpack array, whose first entry is its kind. Requests:
``load``, ``call``, ``cancel``. Answers: ``ready``, ``done``; in between ``report``, ``heartbeat``
and ``log``.
"""

import struct
from collections.abc import Iterator
from typing import Any

from stagerun.store import codec

__all__ = ["Splitter", "pack"]

_LENGTH = struct.Struct("!I")


def pack(*fields: Any) -> bytes:
    """Return a frame.

    Raises:
        ValueError: It has 4 GiB or more.
    """
    body = codec.encode(fields)
    try:
        return _LENGTH.pack(len(body)) + body
    except struct.error:
        raise ValueError(f"{len(body)} bytes are more than fit between two processes") from None


class Splitter:
    """Puts frames together from bytes as they come."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, received: bytes) -> Iterator[list[Any]]:
        """Take bytes in; give each frame that is whole by now."""
        self._bytes += received
        while len(self._bytes) >= _LENGTH.size:
            end = _LENGTH.size + int(_LENGTH.unpack_from(self._bytes)[0])
            if len(self._bytes) < end:
                return
            frame = codec.decode(bytes(self._bytes[_LENGTH.size : end]))
            del self._bytes[:end]
            yield frame
