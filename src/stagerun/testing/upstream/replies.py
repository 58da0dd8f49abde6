"""What an upstream may do with a request: a value for each way."""

import json as json_text
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final, Literal, Protocol

import trio
from attrs import field, frozen

from stagerun.testing.upstream.line import Line

__all__ = [
    "Answer",
    "Bomb",
    "Busy",
    "Close",
    "DripBody",
    "DripHeader",
    "Endless",
    "EndlessContinue",
    "EndlessHeader",
    "Garbage",
    "Hang",
    "LengthAndChunks",
    "Redirect",
    "Reply",
    "Reset",
    "Stale",
    "Unread",
    "WrongLength",
]


class Reply(Protocol):
    """What is done with a request. Write your own: a class with this method is one."""

    async def play(self, line: Line) -> None:
        """Do it. The connection stays open afterwards, unless this closes it."""


@frozen
class Answer:
    """A whole answer: `json`, or else `content` as it is.

    A header given here takes the place of the one that the server would have set. None of this
    closes the connection, save with `closes`: then it is closed right after the answer, although
    the answer says nothing of it.
    """

    json: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(factory=dict, kw_only=True)
    content: bytes | None = field(default=None, kw_only=True)
    closes: bool = field(default=False, kw_only=True)

    async def play(self, line: Line) -> None:
        """See `Reply`."""
        await line.send(self.head + self.body)
        if self.closes:
            await line.close()

    @property
    def body(self) -> bytes:
        """What follows the head."""
        return json_text.dumps(self.json).encode() if self.content is None else self.content

    @property
    def head(self) -> bytes:
        """Status and headers, to the empty line."""
        kind = "application/json" if self.content is None else "application/octet-stream"
        usual = {"Content-Type": kind, "Content-Length": str(len(self.body))}
        given = {name.lower() for name in self.headers}
        kept = {name: value for name, value in usual.items() if name.lower() not in given}
        return _head(self.status, {**kept, **self.headers})


@frozen
class Busy:
    """A status that asks for patience. `retry_after` is sent as it stands: also dates, nonsense."""

    retry_after: str | None = None
    status: int = 503

    async def play(self, line: Line) -> None:
        """See `Reply`."""
        headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
        await Answer({"error": "busy"}, self.status, headers=headers).play(line)


@frozen
class Redirect:
    """An answer that sends the client elsewhere: to itself, to another host, to `file://`."""

    to: str
    status: int = 302

    async def play(self, line: Line) -> None:
        """See `Reply`."""
        await Answer(content=b"", status=self.status, headers={"Location": self.to}).play(line)


# -- silence and slowness ---------------------------------------------------------------------


@frozen
class Hang:
    """The request is read, and never answered."""

    async def play(self, line: Line) -> None:
        """See `Reply`."""
        await line.gone()


@frozen
class Unread:
    """The request's body is not read. It takes some megabytes for a client to notice."""

    async def play(self, line: Line) -> None:  # noqa: ARG002 - not to use it is all there is to it
        """See `Reply`."""
        await trio.sleep_forever()


@frozen
class DripHeader:
    """The answer's head comes byte by byte, `every` so many seconds, and never ends."""

    every: float = 0.1

    async def play(self, line: Line) -> None:
        """See `Reply`."""
        await line.send(b"HTTP/1.1 200 OK\r\nX-Drip: ")
        while True:
            await line.send(b"x")
            await trio.sleep(self.every)


@frozen
class DripBody:
    """The answer's body comes in pieces of `size` bytes, `every` so many seconds.

    It is `length` bytes long; None: nobody knows, and it never ends.
    """

    every: float = 0.1
    size: int = 1
    length: int | None = None

    async def play(self, line: Line) -> None:
        """See `Reply`."""
        length = {} if self.length is None else {"Content-Length": str(self.length)}
        await line.send(_head(200, length))
        left = math.inf if self.length is None else self.length
        while left > 0:
            piece = int(min(self.size, left))
            await line.send(b"x" * piece)
            left -= piece
            await trio.sleep(self.every)


# -- without an end ---------------------------------------------------------------------------


@frozen
class Endless:
    """A body that never ends, as fast as it is taken, in pieces of `size` bytes.

    With a `length` the answer announces that many bytes, and sends them.
    """

    size: int = 2**16
    length: int | None = None

    async def play(self, line: Line) -> None:
        """See `Reply`."""
        await DripBody(every=0, size=self.size, length=self.length).play(line)


@frozen
class EndlessContinue:
    """`100 Continue` for ever, `every` so many seconds; 0: as fast as they are taken."""

    every: float = 0.0

    async def play(self, line: Line) -> None:
        """See `Reply`."""
        while True:
            await line.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            await trio.sleep(self.every)


@frozen
class EndlessHeader:
    """Header after header for ever, as fast as they are taken."""

    async def play(self, line: Line) -> None:
        """See `Reply`."""
        await line.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            await line.send(b"X-More: and more\r\n" * 64)


@frozen
class Bomb:
    """A small body that unpacks to `decoded` zero bytes."""

    decoded: int = 200 * 10**6
    encoding: Literal["gzip", "deflate"] = "gzip"

    async def play(self, line: Line) -> None:
        """See `Reply`."""
        chunked = {"Content-Encoding": self.encoding, "Transfer-Encoding": "chunked"}
        await line.send(_head(200, chunked))
        for piece in self._packed():
            await line.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        await line.send(b"0\r\n\r\n")

    def _packed(self) -> Iterator[bytes]:
        # Whole mebibytes are packed once and sent again and again: a bomb is cheap to throw.
        zeros, (whole, rest) = bytes(2**20), divmod(self.decoded, 2**20)
        check = zlib.crc32 if self.encoding == "gzip" else zlib.adler32
        packed, total = _packed(zeros), check(b"")
        yield b"\x1f\x8b\x08" + bytes(7) if self.encoding == "gzip" else b"\x78\x01"
        for left in range(whole, 0, -_TOGETHER):
            yield packed * min(left, _TOGETHER)
            for _ in range(min(left, _TOGETHER)):
                total = check(zeros, total)
        total = check(zeros[:rest], total)
        yield _packed(zeros[:rest]) + b"\x03\x00"  # and an empty block, the last one
        yield (
            struct.pack("<II", total, self.decoded % 2**32)
            if self.encoding == "gzip"
            else (struct.pack(">I", total))
        )


_TOGETHER: Final = 32
"""Mebibytes that one piece unpacks to."""


def _packed(data: bytes) -> bytes:
    """Return data packed so that it may stand before and behind any other."""
    packer = zlib.compressobj(level=9, wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush(zlib.Z_FULL_FLUSH)


# -- cut and malformed ------------------------------------------------------------------------


@frozen
class Reset:
    """The connection is reset after `after_bytes` of the answer's body; None: before its head."""

    after_bytes: int | None = None
    of: int = 2**16
    """Bytes that the head announces."""

    async def play(self, line: Line) -> None:
        """See `Reply`."""
        await _begin(line, self.after_bytes, self.of)
        await line.reset()


@frozen
class Close:
    """The connection is closed after `after_bytes` of the answer's body; None: before its head."""

    after_bytes: int | None = None
    of: int = 2**16
    """Bytes that the head announces."""

    async def play(self, line: Line) -> None:
        """See `Reply`."""
        await _begin(line, self.after_bytes, self.of)
        await line.close()


@frozen
class Stale:
    """A kept connection that has been closed meanwhile, which its client learns by using it.

    The first request on a connection gets `answer`, and any later one a closed connection. This is
    what a server does that closes what is idle, in the moment that the client asks again.
    """

    answer: "Reply" = field(factory=lambda: Answer({}))

    async def play(self, line: Line) -> None:
        """See `Reply`."""
        await (self.answer if line.calls == 1 else Close()).play(line)


@frozen
class Garbage:
    """These bytes instead of an answer, then the end of the connection."""

    data: bytes = b"<html>An answer in the style of 1991</html>\r\n\r\n"

    async def play(self, line: Line) -> None:
        """See `Reply`."""
        await line.send(self.data)
        await line.close()


@frozen
class WrongLength:
    """A head that announces `by` bytes more than there are; below 0: fewer.

    Announced too many, the connection is closed where they are missing. Announced too few, it is
    kept, and what is left over stands before whatever is answered next.
    """

    by: int = 9
    content: bytes = b"a body of thirty bytes or more"

    async def play(self, line: Line) -> None:
        """See `Reply`."""
        length = {"Content-Length": str(len(self.content) + self.by)}
        await Answer(content=self.content, headers=length, closes=self.by > 0).play(line)


@frozen
class LengthAndChunks:
    """An answer with a length that is in chunks, too: two readers see two different bodies."""

    async def play(self, line: Line) -> None:
        """See `Reply`."""
        both = {"Content-Length": "4", "Transfer-Encoding": "chunked"}
        await line.send(_head(200, both) + b"2\r\n{}\r\n0\r\n\r\n")


async def _begin(line: Line, after_bytes: int | None, length: int) -> None:
    if after_bytes is not None:
        await line.send(_head(200, {"Content-Length": str(length)}) + b"x" * after_bytes)


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    first = f"HTTP/1.1 {status} {_PHRASES.get(status, 'Some Status')}"
    lines = (f"{name}: {value}" for name, value in headers.items())
    return "\r\n".join([first, *lines, "", ""]).encode("latin-1")


_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
