"""Who may ask at all: the host that is asked for, the page that asks, and the token.

It stands around the whole app and reads headers only. What changes something is let through here or
not at all; what only reads is judged by the route (``routes.py``), since the page of the dashboard,
for one, must come before anybody can show a token.
"""

import ipaddress
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from attrs import frozen
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stagerun.errors import StagerunError
from stagerun.web.incidents import incident
from stagerun.web.problems import Problem, problem_of

__all__ = ["VISITOR", "Guard", "Visitor"]

VISITOR: Final = "stagerun.visitor"
"""Where in a scope the visitor stands."""

_SAFE: Final = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing."""
_LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")
_PASSED_ON: Final = (b"forwarded", b"x-forwarded", b"x-real-ip", b"via")
_HOST: Final = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9._-]{1,253}?)\.?(:[0-9]{1,5})?")
_HEADERS: Final = (
    (
        b"content-security-policy",
        (
            b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
            b" connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none';"
            b" frame-ancestors 'none'"
        ),
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_PREFLIGHT: Final = (
    (b"access-control-allow-methods", b"GET, POST"),
    (
        b"access-control-allow-headers",
        b"authorization, content-type, idempotency-key, last-event-id",
    ),
    (b"access-control-max-age", b"600"),
)
_EXPOSED: Final = (b"access-control-expose-headers", b"location, link, retry-after")


@frozen
class Visitor:
    """What a request may do."""

    known: bool
    """Whether it has shown the token, or none is asked for."""
    reads: bool
    """Whether it may read what the runs hold."""


class Guard:
    """An ASGI program around another one.

    Args:
        app: What is guarded.
        hosts: The names under which it may be asked, without a port; ``"*"``: any.
        origins: Foreign pages that may ask, ``https://example.org``.
        token: Gives what must be shown; None: nothing must.
        reads_need_token: Whether it must be shown for reading on this machine, too: where other
            users of it are not to read, or where something before it hides who asks.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Iterable[str] = _LOOPBACK_NAMES,
        origins: Iterable[str] = (),
        token: Callable[[], str | None],
        reads_need_token: bool = False,
    ) -> None:
        self._app = app
        self._hosts = {host.lower().rstrip(".") for host in hosts}
        self._origins = {origin.lower().rstrip("/") for origin in origins}
        self._token = token
        self._reads_need_token = reads_need_token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Be an ASGI program."""
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _Headers(scope["headers"])
        origin = self._listed(headers)
        begun = False

        async def send_guarded(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message = {**message, "headers": _guarded(message["headers"], origin)}
            await send(message)

        try:
            try:
                visitor = self._admit(scope, headers, trusted=origin is not None)
                if scope["method"] == "OPTIONS" and origin and headers.preflight:
                    await _no_content(send_guarded)
                    return
                scope = {**scope, VISITOR: visitor}
                await self._app(scope, receive, send_guarded)
            except Problem as problem:
                await problem.response()(scope, receive, send_guarded)
        except Exception as error:
            number = incident(error, scope)
            if begun:
                raise  # half of an answer is out: the server must break the connection
            await number.response()(scope, receive, send_guarded)

    def _admit(self, scope: Scope, headers: "_Headers", *, trusted: bool) -> Visitor:
        host = self._host(headers)
        own_page = trusted or _from_own_page(headers)
        changes = scope["method"] not in _SAFE
        if changes and not own_page:
            raise Problem(
                403,
                "the request comes from a page of another origin: list that in origins=[...] of"
                " the service if it may ask",
                kind="cross-site",
            )
        try:
            asked = self._token()
        except StagerunError as error:
            raise problem_of(error) from error
        known = asked is None or headers.shows(asked)
        if changes and not known:
            raise unknown(headers.bearers)
        local = _is_loopback(scope) and host in _LOOPBACK_NAMES
        free = local and own_page and not self._reads_need_token
        return Visitor(known=known, reads=known or (free and not _passed_on(scope, headers)))

    def _host(self, headers: "_Headers") -> str:
        given = headers.all(b"host")
        match = _HOST.fullmatch(given[0]) if len(given) == 1 else None
        host = "" if match is None else match[1].lower()
        if host and (host in self._hosts or "*" in self._hosts):
            return host
        raise Problem(
            400,
            "the service is not asked under this name: add it to hosts=[...] of the service, or to"
            " `stagerun serve --allow-host`",
            title="Unknown host",
            kind="host",
        )

    def _listed(self, headers: "_Headers") -> bytes | None:
        """Return the foreign origin that asks, if it is one of those listed."""
        given = headers.all(b"origin")
        if len(given) != 1 or given[0].lower() not in self._origins:
            return None
        return given[0].encode("latin-1")


def unknown(shown: Sequence[str]) -> Problem:
    """Return the problem of whoever shows no token, or not the right one."""
    what = "the token is not the right one" if shown else "a token is needed"
    return Problem(
        401,
        f"{what}: send 'Bearer TOKEN' as the header Authorization, with what is in STAGERUN_TOKEN"
        " or in the file DATABASE.token beside the database",
        kind="token",
        headers={"WWW-Authenticate": "Bearer"},
    )


class _Headers:
    """The headers of a request, as they came: a name may stand there more than once."""

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        self._raw = [(name.lower(), value) for name, value in raw]

    def all(self, name: bytes) -> list[str]:
        return [value.decode("latin-1").strip() for key, value in self._raw if key == name]

    @property
    def bearers(self) -> list[str]:
        """Everything that was shown as a token."""
        schemes = (value.partition(" ") for value in self.all(b"authorization"))
        return [token.strip() for scheme, _, token in schemes if scheme.lower() == "bearer"]

    def shows(self, token: str) -> bool:
        """Whether the right token is shown, and nothing else beside it."""
        given = self.bearers
        if len(given) != 1:
            return False
        return secrets.compare_digest(given[0].encode("latin-1"), token.encode())

    @property
    def forwarded(self) -> bool:
        """Whether they say that somebody has passed the request on."""
        return any(name.startswith(_PASSED_ON) for name, _ in self._raw)

    @property
    def preflight(self) -> bool:
        """Whether a browser asks whether a page may ask."""
        return bool(self.all(b"access-control-request-method"))


def _from_own_page(headers: _Headers) -> bool:
    """Whether no foreign page has sent it, as browsers say; other clients say nothing."""
    sites, origins, hosts = (headers.all(n) for n in (b"sec-fetch-site", b"origin", b"host"))
    if any(site not in ("same-origin", "none") for site in sites):
        return False
    return all(origin.partition("://")[2].lower() == hosts[0].lower() for origin in origins)


def _passed_on(scope: Scope, headers: _Headers) -> bool:
    """Whether somebody has passed the request on: then its client is not whom we see.

    No browser speaks HTTP/1.0. nginx does as long as nobody sets it up: it then sends no header
    that would tell, and gives the address of the service as the host that is asked for.
    """
    return headers.forwarded or scope.get("http_version") == "1.0"


def _is_loopback(scope: Scope) -> bool:
    client = scope.get("client")
    try:
        address = ipaddress.ip_address(client[0] if client else "")
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _guarded(
    headers: Iterable[tuple[bytes, bytes]], origin: bytes | None
) -> list[tuple[bytes, bytes]]:
    given = list(headers)
    names = {name.lower() for name, _ in given}
    given += [(name, value) for name, value in _HEADERS if name not in names]
    if b"cache-control" not in names:
        given.append((b"cache-control", b"no-store"))
    if origin is not None:
        given += [(b"access-control-allow-origin", origin), (b"vary", b"origin"), _EXPOSED]
    return given


async def _no_content(send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": list(_PREFLIGHT)})
    await send({"type": "http.response.body", "body": b""})
