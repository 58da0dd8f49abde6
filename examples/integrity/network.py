"""A network that goes away and comes back: a forwarder on the loopback interface.

    python -m examples.integrity.network --to http://127.0.0.1:8100 --port 8200

It prints one line, {"address": "http://127.0.0.1:PORT"}, passes on what is asked of that address,
and obeys the words on its standard input:

    lost    nothing gets through, and nobody is told, as when a computer has been closed; what was
            connected before `up` hears nothing more, ever
    down    all connections are reset, and new ones at once
    up      new connections get through again
"""

import argparse
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import partial
from urllib.parse import urlsplit

import trio


@asynccontextmanager
async def running_network(to: str, port: int = 0) -> AsyncGenerator["Network"]:
    """Forward to an address inside the block."""
    network = Network(to)
    async with trio.open_nursery() as nursery:
        listen = partial(trio.serve_tcp, network.talk, port, host="127.0.0.1")
        listeners: list[trio.SocketListener] = await nursery.start(listen)
        network.address = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        yield network
        nursery.cancel_scope.cancel()


class Network:
    address: str

    def __init__(self, to: str) -> None:
        parts = urlsplit(to)
        if parts.hostname is None or parts.port is None:
            raise ValueError(f"an address is http://HOST:PORT, not {to!r}")
        self._there = parts.hostname, parts.port
        self._down = False
        self._lost = trio.Event()  # when it is set, nothing gets through on connections with it
        self._connections: dict[trio.SocketStream, tuple[trio.CancelScope, trio.Event]] = {}

    @property
    def connections(self) -> int:
        """How many clients are connected at this moment."""
        return len(self._connections)

    @property
    def caught(self) -> int:
        """How many of them will never hear anything again."""
        return sum(lost.is_set() for _, lost in self._connections.values())

    def lose(self) -> None:
        self._lost.set()

    def go_down(self) -> None:
        self._down = True
        for client, (scope, _) in self._connections.items():
            _reset_when_closed(client)
            scope.cancel()

    def come_up(self) -> None:
        self._down = False
        self._lost = trio.Event()

    async def talk(self, client: trio.SocketStream) -> None:
        if self._down:
            _reset_when_closed(client)
            return
        with trio.CancelScope() as scope, suppress(OSError):  # nobody listens there
            lost = self._lost
            self._connections[client] = scope, lost
            try:
                await self._carry(client, lost)
            finally:
                del self._connections[client]

    async def _carry(self, client: trio.SocketStream, lost: trio.Event) -> None:
        async def back() -> None:
            await _copy(server, client, lost)
            if not lost.is_set():
                nursery.cancel_scope.cancel()

        async with (
            await trio.open_tcp_stream(*self._there) as server,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(back)
            await _copy(client, server, lost)
            nursery.cancel_scope.cancel()


async def _copy(source: trio.SocketStream, sink: trio.SocketStream, lost: trio.Event) -> None:
    with suppress(trio.BrokenResourceError):
        async for data in source:
            if not lost.is_set():
                await sink.send_all(data)


def _reset_when_closed(stream: trio.SocketStream) -> None:
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def obey(to: str, port: int) -> None:
    """Forward until standard input ends."""
    async with running_network(to, port) as network:
        print(json.dumps({"address": network.address}), flush=True)
        words = {"lost": network.lose, "down": network.go_down, "up": network.come_up}
        async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stdin:
            async for data in stdin:
                for word in data.decode().split():
                    if word in words:
                        words[word]()
                    print(
                        f"{network.connections} connections, {network.caught} of them caught",
                        flush=True,
                    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", required=True, help="where to: http://HOST:PORT")
    parser.add_argument("--port", type=int, default=0, help="0 lets the system choose")
    options = parser.parse_args()
    try:
        trio.run(obey, options.to, options.port)
    except* KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
