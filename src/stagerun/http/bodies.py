"""Bodies on their way: sent in one piece, read as they come, and decoded in pieces."""

import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Self

import httpx

__all__ = ["Content", "Inflater", "raw_chunks"]


@asynccontextmanager
async def raw_chunks(answer: httpx.Response) -> AsyncGenerator[AsyncIterator[bytes]]:
    """The body as it comes, closed at the end of the block even when that leaves it half read."""
    chunks = answer.aiter_raw()
    try:
        yield chunks
    finally:
        # httpx nests generators, which are left to the garbage collector unless they run to their
        # end. With the connection closed under them they do, after what was read in advance.
        await answer.aclose()
        with suppress(httpx.RequestError, httpx.StreamClosed):  # the latter when nothing was read
            async for _ in chunks:
                pass


class Content(httpx.AsyncByteStream):
    """A request's body in one chunk. httpx has a generator for it, which a cut would leave open."""

    def __init__(self, content: bytes) -> None:
        self._chunks = iter([content])

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        for chunk in self._chunks:
            return chunk
        raise StopAsyncIteration


class Inflater:
    """Decodes a body in pieces of bounded size, however much is packed into a chunk."""

    _PIECE = 2**17
    _GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding.strip().lower()
        self._zlib = zlib.decompressobj(self._GZIP_OR_ZLIB)
        self._fed = False

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        if self._encoding == "identity":
            yield chunk
            return
        if self._encoding not in {"gzip", "x-gzip", "deflate"}:
            raise zlib.error(f"the body is encoded as {self._encoding!r}, which nobody asked for")
        while chunk:
            if self._zlib.eof:
                raise zlib.error("more bytes follow the end of the compressed body")
            self._fed = True
            yield self._zlib.decompress(chunk, self._PIECE)
            chunk = self._zlib.unconsumed_tail or self._zlib.unused_data

    def close(self) -> None:
        if self._fed and not self._zlib.eof:
            raise zlib.error("the compressed body ends early")
