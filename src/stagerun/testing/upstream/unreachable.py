"""Upstreams that are not there: nobody listens, nobody answers, nobody knows the name."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

__all__ = ["black_hole", "black_holed_names", "refused"]


@contextmanager
def refused() -> Iterator[str]:
    """The address of a port at which nobody listens: connections are refused at once."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken, so that nobody else listens there meanwhile
        yield _address(closed)


@contextmanager
def black_hole() -> Iterator[str]:
    """The address of a port that answers no attempt to connect, as behind a silent firewall.

    It is a listener whose queue is full: Linux then answers nothing, other systems may refuse.
    """
    with ExitStack() as sockets:
        full = sockets.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(2):  # the queue holds one more than it was made for
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            with suppress(BlockingIOError):
                waiting.connect(full.getsockname())
        yield _address(full)


@contextmanager
def black_holed_names(*domains: str, longest: float = 60.0) -> Iterator[list[str]]:
    """Let look-ups of names below these domains hang until the block is left; give the names.

    None given: of all names but this host's own. Numeric addresses ask nobody, and go through.
    It takes the place of `socket.getaddrinfo`, which trio, asyncio and plain programs all call, in
    a thread that then hangs. Look-ups fail at the end of the block, or after `longest` seconds.
    """
    asked: list[str] = []
    over, real = threading.Event(), socket.getaddrinfo

    def getaddrinfo(  # noqa: PLR0917 - the one whose place it takes has so many
        host: Any,
        port: Any,
        family: int = 0,
        type: int = 0,  # noqa: A002 - so does that one call it
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        name = host.decode() if isinstance(host, bytes) else host or "localhost"
        # Whoever asks for a numeric address, as trio does first, must not be kept waiting.
        asks = not flags & socket.AI_NUMERICHOST and not _numeric(real, name)
        if asks and _below(name, domains):
            asked.append(name)
            over.wait(longest)
            raise socket.gaierror(socket.EAI_AGAIN, f"nobody answered for {name}")
        return real(host, port, family, type, proto, flags)

    socket.getaddrinfo = getaddrinfo
    try:
        yield asked
    finally:
        socket.getaddrinfo = real
        over.set()


def _below(name: str, domains: tuple[str, ...]) -> bool:
    if not domains:
        return name != "localhost"
    return any(name == domain or name.endswith(f".{domain}") for domain in domains)


def _numeric(getaddrinfo: Any, name: str) -> bool:
    try:
        getaddrinfo(name, None, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return False
    return True


def _address(bound: socket.socket) -> str:
    return f"http://127.0.0.1:{bound.getsockname()[1]}"
