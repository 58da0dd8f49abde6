"""Host names looked up beside everything else: a name server that hangs starves nobody.

A look-up is a blocking call, so trio makes it in a thread, one of the 40 that a program shares; a
thread that hangs there keeps its place long after whoever asked has gone. What is asked for inside
``apart()`` has places of its own. trio knows one resolver for a whole program: ours takes that
place only where nobody else's is, for others does what trio does by itself, and gives way to
whatever is installed later.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import trio

__all__ = ["apart"]

_PLACES = 8
"""Look-ups at once."""
_APART: ContextVar[bool] = ContextVar("stagerun_names_apart", default=False)


@contextmanager
def apart() -> Iterator[None]:
    """Look names up apart from everybody else, in this block and the tasks it starts."""
    found = trio.socket.set_custom_hostname_resolver(_Resolver())
    if found is not None:
        trio.socket.set_custom_hostname_resolver(found)
    token = _APART.set(True)
    try:
        yield
    finally:
        _APART.reset(token)


class _Resolver(trio.abc.HostnameResolver):
    """Does what trio does without a resolver, in threads that are counted apart."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(_PLACES)

    async def getaddrinfo(  # noqa: PLR0917 - the interface has so many
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002 - the interface has it
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """See ``trio.abc.HostnameResolver``."""
        return await self._ask(socket.getaddrinfo, host, port, family, type, proto, flags)

    async def getnameinfo(
        self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int
    ) -> Any:
        """See ``trio.abc.HostnameResolver``."""
        return await self._ask(socket.getnameinfo, sockaddr, flags)

    async def _ask(self, function: Any, *arguments: Any) -> Any:
        limiter = self._limiter if _APART.get() else None
        return await trio.to_thread.run_sync(
            function, *arguments, abandon_on_cancel=True, limiter=limiter
        )
