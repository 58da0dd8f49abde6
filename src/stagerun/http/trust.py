"""What good certificates are told by, read once."""

import os
import ssl
from functools import cache
from typing import Final

import httpx
import trio

__all__ = ["trust"]


async def trust() -> ssl.SSLContext:
    """Return what good certificates are told by; read beside the event loop, the first time."""
    places = (os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
    if places not in _SEEN:
        # With a place of its own: those that all share may be taken by threads that hang.
        await trio.to_thread.run_sync(_trusted, *places, limiter=trio.CapacityLimiter(1))
        _SEEN.add(places)
    return _trusted(*places)


_SEEN: Final = set[tuple[str | None, str | None]]()
"""For which of them `_trusted` answers at once."""


@cache
def _trusted(_file: str | None, _folder: str | None) -> ssl.SSLContext:
    """Return what good certificates are told by, one for all clients: it takes 0.05 s and more."""
    return httpx.create_ssl_context()
