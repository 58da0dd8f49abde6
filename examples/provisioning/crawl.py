"""Reads a web site, politely and not for ever.

Only pages of the host that the address leads to, only those that robots.txt leaves open, one after
the other with a pause between them, and within bounds: so many pages, bytes and seconds. A page
that cannot be read is noted and left out; only the first one has to be there.
"""

import ssl
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, NamedTuple
from urllib.parse import urldefrag, urljoin, urlsplit
from urllib.robotparser import RobotFileParser

import trio
from attrs import field, frozen

from examples.provisioning.pages import Page, is_page, read_page
from stagerun.http import (
    Client,
    HttpConnectionError,
    HttpError,
    HttpStatusError,
    Response,
    open_client,
)

__all__ = ["CrawlError", "Limits", "Site", "read_site"]

NAME: Final = "stagerun-example"
HEADERS: Final = {"User-Agent": f"{NAME}/1", "Accept": "text/html"}
MOST_HOPS: Final = 5
LONGEST_PAUSE: Final = 5.0


class CrawlError(Exception):
    """There is nothing to read at that address."""


@frozen
class Limits:
    """How much of a site is read, and for how long."""

    pages: int = 8
    seconds: float = 60
    """For the whole site."""
    page_seconds: float = 10
    page_bytes: int = 2**20
    site_bytes: int = 2**23
    pause: float = 0.05
    """Seconds between two pages; a Crawl-delay in robots.txt may ask for more, up to five."""


@frozen
class Site:
    """What was read."""

    address: str
    pages: list[Page]
    left_out: dict[str, str] = field(factory=dict)
    """Why an address was not read."""


async def read_site(address: str, limits: Limits, seen: Callable[[Page], None]) -> Site:
    """Read the site at an address; `seen` hears of each page.

    Raises:
        CrawlError: There is no page at the address, or none that may be read or trusted.
        HttpError: The first page, or robots.txt before it, did not come. Another try may help.
    """
    if not _host(address):
        raise CrawlError(f"{address!r} is no address of a web site: give https://HOST/")
    address = urldefrag(address if urlsplit(address).path else urljoin(address, "/")).url
    opened = partial(open_client, total=limits.page_seconds, max_bytes=limits.page_bytes)
    async with opened(headers=HEADERS) as client:
        try:
            return await _Crawl(client, limits, seen).whole(address)
        except HttpConnectionError as error:
            for cause in _causes(error):
                if isinstance(cause, ssl.SSLCertVerificationError):
                    why = f"its certificate is not to be trusted: {cause.verify_message}"
                    raise CrawlError(f"{_host(address)} was not read, {why}") from error
            raise


class _Fetched(NamedTuple):
    address: str
    answer: Response


class _Crawl:
    """One crawl, from its first request to its last."""

    def __init__(self, client: Client, limits: Limits, seen: Callable[[Page], None]) -> None:
        self._client = client
        self._limits = limits
        self._seen = seen
        self._robots = RobotFileParser()
        self._pages: list[Page] = []
        self._left_out: dict[str, str] = {}
        self._bytes = 0

    async def whole(self, address: str) -> Site:
        with trio.move_on_after(self._limits.seconds) as scope:
            await self._walk(await self._entrance(address))
        if scope.cancelled_caught:
            self._left_out["the rest"] = f"{self._limits.seconds:g} s had passed"
        if not self._pages:
            why = next(iter(self._left_out.values()))
            raise CrawlError(f"nothing can be read at {address}: {why}")
        return Site(address, self._pages, self._left_out)

    async def _entrance(self, address: str) -> _Fetched:
        """Fetch the first page, wherever it has moved to, and what robots.txt says there."""
        for _ in range(MOST_HOPS):
            await self._read_robots(address)
            if not self._robots.can_fetch(NAME, address):
                raise CrawlError(f"robots.txt of {_host(address)} closes {address}")
            answer = await self._client.get(address)
            onwards = _moved(address, answer)
            if onwards is None:
                return _Fetched(address, answer)
            address = onwards
        raise CrawlError(f"{address} sends us on and on: {MOST_HOPS} redirections, and no page")

    async def _read_robots(self, address: str) -> None:
        lines: list[str] = []
        try:
            answer = await self._client.get(urljoin(address, "/robots.txt"))
        except HttpStatusError as error:
            if error.status >= 500:  # RFC 9309: who cannot say now has closed everything
                lines = ["User-agent: *", "Disallow: /"]
        else:
            if answer.status == 200:
                lines = answer.content.decode(errors="replace").splitlines()
        self._robots = RobotFileParser()
        self._robots.parse(lines)

    async def _walk(self, first: _Fetched) -> None:
        known = {first.address: None} | dict.fromkeys(await self._take(first))
        queue = deque([*known][1:])
        while queue and len(self._pages) < self._limits.pages:
            if self._bytes > self._limits.site_bytes:
                self._left_out["the rest"] = f"{self._bytes} bytes had come"
                return
            await trio.sleep(self._pause())
            for link in await self._links_behind(queue.popleft()):
                if link not in known:
                    known[link] = None
                    queue.append(link)

    def _pause(self) -> float:
        asked = float(self._robots.crawl_delay(NAME) or 0)
        return min(max(asked, self._limits.pause), LONGEST_PAUSE)

    async def _links_behind(self, address: str) -> list[str]:
        if not self._robots.can_fetch(NAME, address):
            self._left_out[address] = "robots.txt closes it"
            return []
        try:
            answer = await self._client.get(address)
        except HttpError as error:
            self._left_out[address] = str(error)
            return []
        onwards = _moved(address, answer)
        if onwards is not None:
            self._left_out[address] = f"has moved to {onwards}"
            return [onwards] if _host(onwards) == _host(address) else []
        return await self._take(_Fetched(address, answer))

    async def _take(self, fetched: _Fetched) -> list[str]:
        """Keep a page, and return the addresses of the same host that it names."""
        address, answer = fetched
        self._bytes += len(answer.content)
        if not is_page(answer.headers):
            kind = answer.headers.get("content-type", "of no kind that it tells")
            self._left_out[address] = f"not a page: {kind}"
            return []
        # In a thread that may be left behind: a long page would hold the event loop.
        read = partial(read_page, address, answer.headers, answer.content)
        page, links = await trio.to_thread.run_sync(read, abandon_on_cancel=True)
        if page.text:
            self._pages.append(page)
            self._seen(page)
        else:
            self._left_out[address] = "no text on it: made by a script, maybe"
        return [link for link in links if _host(link) == _host(address)]


def _moved(address: str, answer: Response) -> str | None:
    place = answer.headers.get("location")
    return urljoin(address, place) if 300 <= answer.status < 400 and place else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _host(address: str) -> str:
    """Return scheme, host and port, which have one robots.txt; nothing for what is no web site."""
    try:
        parts = urlsplit(address)
        web = parts.scheme in {"http", "https"} and parts.hostname
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.netloc}".lower() if web else ""
