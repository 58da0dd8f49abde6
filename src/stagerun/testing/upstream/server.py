"""The upstream itself: it hears requests, keeps a record, and does as it was told."""

import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from stagerun.engine.unwrap import unwrapped
from stagerun.testing.upstream.certificates import TLS, server_context
from stagerun.testing.upstream.line import Call, Line
from stagerun.testing.upstream.replies import Answer, Reply, Unread

__all__ = ["TLS", "Upstream", "open_upstream"]

_PATIENCE = 10.0
"""Seconds that a client may take for its part of a TLS handshake."""


@asynccontextmanager
async def open_upstream(tls: TLS | None = None) -> AsyncGenerator["Upstream"]:
    """Open an upstream on a free port of 127.0.0.1; leaving the block closes it.

    Args:
        tls: how it speaks TLS; None: it does not. "good" shows a good certificate, "expired",
            "wrong_host" and "unknown_ca" a bad one; "hang" never answers the client's greeting,
            and "eof" hangs up on it. A client has to trust `authority`, to which the variable
            `SSL_CERT_FILE` can point. All but the last two need the package trustme.

    Raises:
        ImportError: trustme is needed and not installed.
    """
    with tempfile.TemporaryDirectory() as folder, unwrapped():
        authority = Path(folder) / "authority.pem"
        context = None
        if tls not in {None, "hang", "eof"}:
            context = await trio.to_thread.run_sync(server_context, tls, authority)
        (tcp,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with tcp, trio.open_nursery() as nursery:
            port = tcp.socket.getsockname()[1]
            upstream = Upstream(f"http{'s' if tls else ''}://127.0.0.1:{port}", authority)
            listener: trio.abc.Listener[trio.abc.Stream] = tcp
            if context is not None:
                listener = trio.SSLListener(tcp, context, https_compatible=True)
            odd = {"hang": upstream.keep_silent, "eof": upstream.hang_up}
            nursery.start_soon(trio.serve_listeners, odd.get(tls or "", upstream.serve), [listener])
            yield upstream
            nursery.cancel_scope.cancel(reason="the upstream has been left")


class Upstream:
    """A server that does as it is told; get one from `open_upstream`."""

    def __init__(self, address: str, authority: Path) -> None:
        self.authority = authority
        """A file with the certificate of who vouches for it, where it speaks TLS."""
        self.calls: list[Call] = []
        """What it was asked, in the order in which the heads of the requests came."""
        self.connections = 0
        """How many were opened to it."""
        self._address = address
        self._next: list[Reply] = []
        self._by_path: dict[str, list[_Choice]] = {}
        self._asked = trio.Event()

    def url(self, path: str = "/") -> str:
        """Return where *path* is to be found."""
        return self._address + path

    def on(self, path: str, *replies: "Reply | Callable[[Call], Reply]") -> None:
        """Reply to requests for *path* with these, one after the other; the last one stays.

        A function gets the `Call` and gives the reply. What is not told of is not found: 404.
        """
        if not replies:
            raise ValueError(f"on({path!r}) needs at least one reply")
        self._by_path[path] = list(replies)

    def next(self, *replies: Reply) -> None:
        """Reply to the next requests with these, whatever they ask for, before all else."""
        self._next += replies

    async def asked(self, times: int = 1) -> None:
        """Wait, in the upstream's own trio program, until so many requests have come."""
        while len(self.calls) < times:
            await self._asked.wait()

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Hear one client, request after request."""
        line = self._line(stream)
        try:
            async with stream:
                if isinstance(stream, trio.SSLStream):
                    with trio.fail_after(_PATIENCE):
                        await stream.do_handshake()
                while (call := await line.next_call()) is not None:
                    await self._answer(call, line)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            return  # whichever side left: that is what this server is for

    async def keep_silent(self, stream: trio.abc.Stream) -> None:
        """Hear one client and say nothing."""
        try:
            async with stream:
                await self._line(stream).gone()
        except trio.BrokenResourceError:
            return  # the client has had enough

    async def hang_up(self, stream: trio.abc.Stream) -> None:
        """Hear the first words of one client, and leave."""
        self._line(stream)
        try:
            async with stream:
                await stream.receive_some()
        except trio.BrokenResourceError:
            return  # the client was quicker

    async def _answer(self, call: Call, line: Line) -> None:
        choice = self._choice(call)
        reply = call.reply = choice(call) if callable(choice) else choice
        self.calls.append(call)
        self._asked.set()
        self._asked = trio.Event()
        try:
            if not isinstance(reply, Unread):
                await line.read_body(call)
            await reply.play(line)
        finally:
            call.ended = time.monotonic()

    def _choice(self, call: Call) -> "_Choice":
        if self._next:
            return self._next.pop(0)
        told = self._by_path.get(call.path)
        if told is None:
            return Answer({"error": f"this upstream knows {sorted(self._by_path)}"}, 404)
        return told.pop(0) if len(told) > 1 else told[0]

    def _line(self, stream: trio.abc.Stream) -> Line:
        self.connections += 1
        below: Any = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
        return Line(self.connections, stream, below.socket)


_Choice = Reply | Callable[[Call], Reply]
