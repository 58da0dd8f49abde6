"""One connection of a client, seen from the server: what a reply may do with it."""

import re
import socket
import struct
import time
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote, urlsplit

import trio
from attrs import define, field

__all__ = ["Call", "Line"]

_MOST = 2**20
"""Bytes of a request's head: more is no test of an upstream."""


@define
class Call:
    """One request, as the server has seen it."""

    method: str
    path: str
    """Without the query, and decoded."""
    query: str
    headers: Mapping[str, str]
    """Names in lower case."""
    connection: int
    """Which connection it came on, counted from 1."""
    began: float
    """When its head had come, by `time.monotonic()`."""
    body: bytes = field(default=b"", repr=False)
    """Empty when the reply does not read it."""
    reply: object = None
    """What it was answered with."""
    ended: float | None = None
    """When the server was done with it, or saw that the client had gone; None: it still goes on."""


@define(eq=False)
class Line:
    """A connection on which a request has come. Sending raises when the client has gone."""

    number: int
    """Of the connection, counted from 1."""
    _stream: trio.abc.Stream
    _socket: trio.socket.SocketType
    calls: int = 0
    """Requests that have come on it so far."""
    _ahead: bytes = b""

    async def send(self, data: bytes) -> None:
        """Send these bytes as they are."""
        await self._stream.send_all(data)

    async def gone(self) -> None:
        """Wait until the client has closed its side."""
        while await self._receive():
            pass

    async def close(self) -> None:
        """Close it in order, at least where TCP is concerned."""
        await trio.aclose_forcefully(self._stream)

    async def reset(self) -> None:
        """Close it by a reset: the client's system may even lose what was sent before."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await trio.aclose_forcefully(self._stream)

    async def next_call(self) -> Call | None:
        """Read the head of the next request; None when there is none, or it is not HTTP."""
        data = self._ahead
        while b"\r\n\r\n" not in data and len(data) < _MOST:
            more = await self._receive()
            if not more:
                return None
            data += more
        head, _, self._ahead = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        found = _REQUEST.fullmatch(first)
        if found is None:
            return None
        self.calls += 1
        target = urlsplit(found["target"])
        return Call(
            method=found["method"],
            path=unquote(target.path),
            query=target.query,
            headers={name.strip().lower(): value.strip() for name, value in map(_header, lines)},
            connection=self.number,
            began=time.monotonic(),
        )

    async def read_body(self, call: Call) -> None:
        """Read what follows the head of a call, so that the next request can be told from it."""
        if "chunked" in call.headers.get("transfer-encoding", ""):
            call.body = await self._chunks()
        else:
            call.body = await self._exactly(int(call.headers.get("content-length", "0")))

    async def _chunks(self) -> bytes:
        body = b""
        while size := int((await self._line()).partition(b";")[0], 16):
            body += await self._exactly(size)
            await self._line()
        while await self._line():  # trailers
            pass
        return body

    async def _line(self) -> bytes:
        while b"\r\n" not in self._ahead:
            self._ahead += await self._more()
        line, _, self._ahead = self._ahead.partition(b"\r\n")
        return line

    async def _exactly(self, size: int) -> bytes:
        data = bytearray(self._ahead)
        while len(data) < size:
            data += await self._more()
        self._ahead = bytes(data[size:])
        return bytes(data[:size])

    async def _more(self) -> bytes:
        data = await self._receive()
        if not data:
            raise trio.BrokenResourceError("the client left in the middle of its request")
        return data

    async def _receive(self) -> bytes:
        return bytes(await self._stream.receive_some(2**16))


_REQUEST: Final = re.compile(r"(?P<method>[A-Z]+) (?P<target>\S+) HTTP/1\.[01]")


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name, value
