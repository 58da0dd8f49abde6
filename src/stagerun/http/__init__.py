"""HTTP calls that end: bounded in time from connect to last byte, and in decoded size.

Every failure of a call is one of these, and nothing of httpx leaves this module:

    HttpError               has method, url, phase, retry_after
    ├── HttpTimeout         `total` passed; has limit and spent
    ├── HttpTooLarge        the decoded body outgrew `max_bytes`; has limit
    ├── HttpConnectionError refused, reset, cut short, or not HTTP; has reason
    ├── HttpStatusError     answered 400 or above; has status and content
    └── HttpUrlError        not a URL that can be called: no retry will help

`retry_after` is what the peer asked for in seconds, or None, so a retry policy may read it from any
exception. URLs are shown without user, password, query and fragment.

When a scope around a call cancels it, `trio.Cancelled` passes through untouched; `PHASE` then still
tells the task that made the call where it stood.
"""

import json
import math
import os
import re
import ssl
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import cache
from types import TracebackType
from typing import Any, Final, Literal, Self

import trio
from attrs import define, frozen

from stagerun.engine.context import http_total
from stagerun.errors import SettingError
from stagerun.names import apart
from stagerun.phase import PHASE

try:
    import httpx
except ModuleNotFoundError as error:
    raise ImportError(
        "stagerun.http needs httpx, which is not installed: pip install 'stagerun[http]'",
        name="httpx",
    ) from error

from stagerun.http.bodies import Content, Inflater, raw_chunks
from stagerun.http.retry_after import parse_retry_after

__all__ = [
    "PHASE",
    "Client",
    "HttpConnectionError",
    "HttpError",
    "HttpStatusError",
    "HttpTimeout",
    "HttpTooLarge",
    "HttpUrlError",
    "Phase",
    "Response",
    "open_client",
    "parse_retry_after",
]


Phase = Literal["connect", "write", "read-header", "read-body"]
"""How far a call has come. `connect` includes the look-up of the name and the TLS handshake."""


@define
class HttpError(Exception):
    """A call that gave no usable answer."""

    method: str
    url: str
    phase: Phase
    retry_after: float | None


@define
class HttpTimeout(HttpError):  # noqa: N818 - named for what happened
    """The call took longer in all than `limit` seconds, even if bytes kept coming."""

    limit: float
    spent: float

    def __str__(self) -> str:
        return (
            f"{self.method} {self.url} was given up after {self.spent:.1f} s in {self.phase} "
            f"(limit {self.limit:g} s): raise `total` if the peer is merely slow"
        )


@define
class HttpTooLarge(HttpError):  # noqa: N818 - named for what happened
    """The body, decoded, is larger than `limit` bytes; the rest was not read."""

    limit: int

    def __str__(self) -> str:
        return (
            f"{self.method} {self.url} answered with more than {self.limit} bytes: "
            "ask for smaller pages or raise `max_bytes`"
        )


@define
class HttpConnectionError(HttpError):
    """The exchange broke: refused, reset, cut short, or not HTTP."""

    reason: str

    def __str__(self) -> str:
        return f"{self.method} {self.url} broke off in {self.phase}: {self.reason}"


@define
class HttpStatusError(HttpError):
    """The peer answered with a status of 400 or above; `content` is what it said about it."""

    status: int
    content: bytes

    def __str__(self) -> str:
        answered = f"{self.status} {httpx.codes.get_reason_phrase(self.status)}".rstrip()
        wish = "" if self.retry_after is None else f", asking for {self.retry_after:g} s of rest"
        return f"{self.method} {self.url} answered {answered}{wish}"


@define
class HttpUrlError(HttpError):
    """The URL cannot be called: its form or its scheme is wrong."""

    def __str__(self) -> str:
        return (
            f"{self.method} {self.url!r} is not an http:// or https:// URL: "
            "correct it, or give `open_client` a `base_url`"
        )


@frozen
class Response:
    """An answer below 400, whole. Redirects are answers like any other; nobody followed them."""

    url: str
    status: int
    headers: Mapping[str, str]
    """Names are found in any case."""
    content: bytes

    def json(self) -> Any:
        """Return the body read as JSON; raise ValueError when it is not."""
        try:
            return json.loads(self.content)
        except ValueError as error:
            kind = self.headers.get("content-type", "no content type")
            raise ValueError(f"{self.url} answered {self.status} without JSON ({kind})") from error


@asynccontextmanager
async def open_client(
    base_url: str = "",
    *,
    total: float | None = None,
    max_bytes: int = 64 * 2**20,
    headers: Mapping[str, str] | None = None,
) -> AsyncGenerator["Client"]:
    """Open a client whose calls share connections, for any number of tasks.

    Args:
        base_url: what relative URLs are appended to.
        total: seconds for each call, from connect to the last byte; `math.inf` switches it off.
            None: the `http_total` of the stage that opens the client; outside a run
            `STAGERUN_HTTP_TOTAL`, else 300.
        max_bytes: the largest body, counted after decompression.
        headers: sent with each call.

    Raises:
        ValueError: `total` is not above 0 or `max_bytes` is negative.
        HttpUrlError: `base_url` is not a URL.
    """
    total = total if total is not None else http_total() or _total_from_environment()
    if not total > 0:
        raise ValueError(f"total must be a number of seconds above 0, not {total!r}")
    if max_bytes < 0:
        raise ValueError(f"max_bytes must be 0 or more, not {max_bytes!r}")
    all_headers = httpx.Headers(headers)
    all_headers["Accept-Encoding"] = "gzip, deflate"  # what Inflater can bound, nothing else
    try:
        client = httpx.AsyncClient(
            base_url=base_url,
            headers=all_headers,
            verify=await _trust(),
            timeout=None,  # noqa: S113 - one clock bounds a call as a whole: the scope in Client
            # The stages' workers bound the calls; a pool would let hung calls starve the others.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            # A proxy from the environment is never asked for what runs on this host.
            mounts={f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")},
        )
    except httpx.InvalidURL:
        raise _url_error("open_client", base_url) from None
    async with client:
        yield Client(client, total=total, max_bytes=max_bytes)


async def _trust() -> ssl.SSLContext:
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


def _total_from_environment() -> float:
    given = os.environ.get("STAGERUN_HTTP_TOTAL", "300")
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        problem = f"must be a finite number of seconds above 0, got {given!r}"
        raise SettingError("STAGERUN_HTTP_TOTAL", problem)
    return seconds


class Client:
    """Makes calls; get one from `open_client`. Each call may raise any `HttpError`."""

    def __init__(self, client: httpx.AsyncClient, *, total: float, max_bytes: int) -> None:
        self._client = client
        self._total = total
        self._max_bytes = max_bytes

    async def get(self, url: str, params: Mapping[str, str | int] | None = None) -> Response:
        """GET `url`, with `params` as its query."""
        return await self._call("GET", url, params=params)

    async def post(self, url: str, json: Any = None, *, content: bytes | None = None) -> Response:
        """POST `json`, encoded, or `content` as it is, to `url`."""
        return await self._call("POST", url, json=json, content=content)

    async def _call(self, method: str, url: str, **content: Any) -> Response:
        began = trio.current_time()
        try:
            request = self._client.build_request(method, url, **content)
        except httpx.InvalidURL:
            raise _url_error(method, url) from None
        request.stream = Content(request.content)
        with _Call(method, _without_secrets(str(request.url))) as call, apart():
            request.extensions["trace"] = call.trace
            with trio.move_on_after(self._total):
                return await self._exchange(call, request)
            raise HttpTimeout(*call.where, limit=self._total, spent=trio.current_time() - began)

    async def _exchange(self, call: "_Call", request: httpx.Request) -> Response:
        """Foreign errors become ours here and nowhere else."""
        try:
            answer = await self._client.send(request, stream=True)
            wish = answer.headers.get("Retry-After")
            call.retry_after = parse_retry_after(wish, datetime.now(UTC))
            async with raw_chunks(answer) as chunks:
                inflater = Inflater(answer.headers.get("Content-Encoding", "identity"))
                content = await self._read(call, chunks, inflater)
        except httpx.UnsupportedProtocol:
            raise _url_error(call.method, str(request.url)) from None
        except (httpx.RequestError, zlib.error) as error:
            raise HttpConnectionError(*call.where, reason=_words(error)) from error
        if answer.status_code >= 400:
            raise HttpStatusError(*call.where, status=answer.status_code, content=content)
        return Response(call.url, answer.status_code, answer.headers, content)

    async def _read(
        self, call: "_Call", chunks: AsyncIterator[bytes], inflater: "Inflater"
    ) -> bytes:
        body = bytearray()
        async for chunk in chunks:
            for piece in inflater.pieces(chunk):
                body += piece
                if len(body) > self._max_bytes:
                    raise HttpTooLarge(*call.where, limit=self._max_bytes)
                await trio.lowlevel.checkpoint()  # a bomb must not hold the loop
        inflater.close()
        return bytes(body)


@define
class _Call:
    """How far one call has come; a context manager that publishes it as `PHASE`."""

    method: str
    url: str
    phase: Phase = "connect"
    retry_after: float | None = None

    @property
    def where(self) -> tuple[str, str, Phase, float | None]:
        return self.method, self.url, self.phase, self.retry_after

    def __enter__(self) -> Self:
        PHASE.set(self.phase)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        # A cancellation (or a group of them) leaves the phase for whoever cancelled.
        if kind is None or issubclass(kind, Exception):
            PHASE.set(None)

    async def trace(self, event: str, _: Mapping[str, Any]) -> None:
        """Hear from httpcore of every step, as `connection.connect_tcp.started`."""
        step, state = event.split(".")[-2:]
        if state == "started" and step in _PHASE_OF_STEP:
            self.phase = _PHASE_OF_STEP[step]
            PHASE.set(self.phase)


_PHASE_OF_STEP: Final[dict[str, Phase]] = {
    "connect_tcp": "connect",
    "start_tls": "connect",
    "send_request_headers": "write",
    "send_request_body": "write",
    "receive_response_headers": "read-header",
    "receive_response_body": "read-body",
}


def _words(error: BaseException) -> str:
    """Return what the first one that says something has to say: a wrapped error often is silent."""
    cause: BaseException | None = error
    while cause is not None:
        if str(cause):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def _url_error(method: str, url: str) -> HttpUrlError:
    # Where the user part of a malformed URL ends is anybody's guess: show what follows the last @.
    shown = _without_secrets(url).rpartition("@")[2]
    return HttpUrlError(method, shown, "connect", retry_after=None)


def _without_secrets(url: str) -> str:
    bare = re.split(r"[?#]", url, maxsplit=1)[0]
    return re.sub(r"^([^/]*//)[^/]*@", r"\1", bare)
