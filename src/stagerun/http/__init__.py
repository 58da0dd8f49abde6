"""HTTP calls that end: bounded in time from connect to last byte, and in decoded size.

Every failure of a call is one of these, and nothing of httpx leaves this module:

    HttpError               has method, url, phase, retry_after
    ├── HttpTimeout         `total` passed; has limit and spent
    ├── HttpTooLarge        the decoded body outgrew `max_bytes`; has limit
    ├── HttpConnectionError refused, reset, or cut short; has reason
    │   ├── HttpProtocolError     what came is not HTTP, or cannot be decoded
    │   └── HttpCertificateError  the peer is not who it should be
    ├── HttpStatusError     answered 400 or above; has status and content
    └── HttpUrlError        not a URL that can be called: no retry will help

`retry_after` is what the peer asked for in seconds, or None, so a retry policy may read it from any
exception; `worth_another_try` tells it which ones may go better later. URLs are shown without user,
password, query and fragment.

Redirects are answers like any other: nobody follows them. A GET that fails because the peer has
closed a kept connection meanwhile goes over a fresh one, within the same `total`.

When a scope around a call cancels it, `trio.Cancelled` passes through untouched; `PHASE` then still
tells the task that made the call where it stood.
"""

import json
import math
import os
import re
import ssl
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import trio
from attrs import define, frozen

from stagerun.engine.context import http_total
from stagerun.errors import SettingError
from stagerun.names import apart
from stagerun.phase import PHASE

try:
    import h11
    import httpx
except ModuleNotFoundError as error:
    raise ImportError(
        "stagerun.http needs httpx, which is not installed: pip install 'stagerun[http]'",
        name="httpx",
    ) from error

from stagerun.http.bodies import Content, Inflater, raw_chunks
from stagerun.http.retry_after import parse_retry_after
from stagerun.http.steps import Phase, Steps
from stagerun.http.trust import trust

__all__ = [
    "PHASE",
    "Client",
    "HttpCertificateError",
    "HttpConnectionError",
    "HttpError",
    "HttpProtocolError",
    "HttpStatusError",
    "HttpTimeout",
    "HttpTooLarge",
    "HttpUrlError",
    "Phase",
    "Response",
    "open_client",
    "parse_retry_after",
    "worth_another_try",
]


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
    """The exchange broke: refused, reset, cut short, or not what it should be."""

    reason: str

    def __str__(self) -> str:
        return f"{self.method} {self.url} broke off in {self.phase}: {self.reason}"


@define
class HttpProtocolError(HttpConnectionError):
    """What came is not HTTP, contradicts itself, or cannot be decoded."""


@define
class HttpCertificateError(HttpConnectionError):
    """The peer's certificate is expired, another host's, or nobody's whom this host trusts."""


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


def worth_another_try(error: BaseException) -> bool:
    """Whether a call may go better later: for `Retry(on=worth_another_try)`.

    Timeouts, broken connections, and the statuses 408, 425, 429 and 500 and above, 501 and 505
    excepted. What is wrong with the request, the certificate or the answer stays wrong.
    """
    if isinstance(error, HttpStatusError):
        # From a worker process an error comes without its status: then it gets the benefit.
        status = getattr(error, "status", 503)
        return status in {408, 425, 429} or (status >= 500 and status not in {501, 505})
    final = HttpTooLarge | HttpUrlError | HttpProtocolError | HttpCertificateError
    return isinstance(error, HttpError) and not isinstance(error, final)


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
            verify=await trust(),
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
        with Steps(method, _without_secrets(str(request.url))) as call, apart():
            request.extensions["trace"] = call.trace
            with trio.move_on_after(self._total):
                while True:  # as often as there are kept connections
                    try:
                        return await self._exchange(call, request)
                    except HttpConnectionError:
                        if not call.repeatable:
                            raise
                    call.begin()
            raise HttpTimeout(*call.where, limit=self._total, spent=trio.current_time() - began)

    async def _exchange(self, call: Steps, request: httpx.Request) -> Response:
        """Foreign errors become ours here and nowhere else."""
        request.stream = Content(request.content)
        try:
            answer = await self._client.send(request, stream=True)
            wish = answer.headers.get("Retry-After")
            call.retry_after = parse_retry_after(wish, datetime.now(UTC))
            async with raw_chunks(answer) as chunks:
                if {"content-length", "transfer-encoding"} <= answer.headers.keys():
                    # Two answers to where it ends, and so to where the next one begins.
                    both = "the answer has a length and is in chunks, too"
                    raise HttpProtocolError(*call.where, reason=both)
                inflater = Inflater(answer.headers.get("Content-Encoding", "identity"))
                content = await self._read(call, chunks, inflater)
        except httpx.UnsupportedProtocol:
            raise _url_error(call.method, str(request.url)) from None
        except (httpx.RequestError, zlib.error) as error:
            kind = HttpConnectionError if call.on_leftovers else _kind(error)
            raise kind(*call.where, reason=_words(error)) from error
        if answer.status_code >= 400:
            raise HttpStatusError(*call.where, status=answer.status_code, content=content)
        return Response(call.url, answer.status_code, answer.headers, content)

    async def _read(self, call: Steps, chunks: AsyncIterator[bytes], inflater: "Inflater") -> bytes:
        body = bytearray()
        async for chunk in chunks:
            for piece in inflater.pieces(chunk):
                if len(body) + len(piece) > self._max_bytes:
                    raise HttpTooLarge(*call.where, limit=self._max_bytes)
                body += piece
                await trio.lowlevel.checkpoint()  # a bomb must not hold the loop
        inflater.close()
        return bytes(body)


def _kind(error: BaseException) -> type[HttpConnectionError]:
    """Return what it is for a retry policy: something that may pass, or something that is wrong."""
    causes = list(_causes(error))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return HttpCertificateError
    # A peer that leaves in the middle of its body is such an error of h11's, too; one that closes
    # without an answer is none of h11's.
    malformed = any(isinstance(cause, h11.RemoteProtocolError) for cause in causes)
    cut = any(_CUT.search(str(cause)) for cause in causes)
    if isinstance(error, zlib.error | httpx.DecodingError) or (malformed and not cut):
        return HttpProtocolError
    return HttpConnectionError


_CUT = re.compile("without sending complete message body")


def _words(error: BaseException) -> str:
    """Return what the first one that says something has to say: a wrapped error often is silent."""
    return next((str(cause) for cause in _causes(error) if str(cause)), type(error).__name__)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _url_error(method: str, url: str) -> HttpUrlError:
    # Where the user part of a malformed URL ends is anybody's guess: show what follows the last @.
    shown = _without_secrets(url).rpartition("@")[2]
    return HttpUrlError(method, shown, "connect", retry_after=None)


def _without_secrets(url: str) -> str:
    bare = re.split(r"[?#]", url, maxsplit=1)[0]
    return re.sub(r"^([^/]*//)[^/]*@", r"\1", bare)
