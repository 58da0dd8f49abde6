"""``GET /runs/{id}/events``: what happens in a run, as it happens, as server-sent events.

Numbers of events come from the database, so a client that lost the stream goes on where it stood,
with any process. A stream has no buffer: it knows what it has sent, and reads on from there when
that was taken.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import ip_address
from typing import Final, TypeVar

import anyio
from attrs import frozen
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from stagerun.engine.health import Lateness
from stagerun.errors import StoreError, UsageError
from stagerun.store.driver import Question
from stagerun.web.backend import Backend
from stagerun.web.frames import PING, RETRY
from stagerun.web.problems import Problem
from stagerun.web.reading import Reader
from stagerun.web.tails import Tail, Tails

__all__ = ["Events", "StreamLimits"]

T = TypeVar("T")

_LOOK: Final = 0.1
"""Seconds between two looks whether the program is about to end."""
_LAST_WORDS: Final = 0.05
"""Seconds in which streams end by themselves then, and again for the good-bye of the others."""
_AT_ONCE: Final = 2
"""Streams that read from the database at once: it has to answer others, too."""
_DIGITS: Final = 18
"""No event's number has more."""
_LATER: Final = {"Retry-After": "5"}
_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""The second asks proxies to hand each frame on at once."""


@frozen(kw_only=True)
class StreamLimits:
    """What streams of events may take. Times in seconds."""

    streams: int = 1_000
    """Open at once in this process."""
    each: int = 100
    """The same of one client's address. Loopback is exempt: a proxy there stands for many."""
    taking: float = 30.0
    """A client that takes nothing for so long is dropped."""
    patience: float = 20.0
    """A stream waits so long for its turn to read from the database."""
    ping: float = 10.0
    """After so long without an event a comment shows that the stream lives."""
    age: float = 3600.0
    """A stream is ended after so long; its client asks for the next one."""
    pause: float = 1.0
    """Before a database is asked again that did not answer."""


class Events:
    """The streams of events of one service. They are served while ``serving()`` is entered."""

    def __init__(self, backend: Backend, limits: StreamLimits | None = None) -> None:
        self.limits = limits or StreamLimits()
        self.leaving = True
        """Whether every stream is to end, and none may begin."""
        self.late = Lateness()
        """By how much this event loop, the server's, has been late."""
        self.tails = Tails(lambda: self.backend.pool)
        self.backend = backend
        self._turns = anyio.Semaphore(_AT_ONCE)
        self._scopes: set[anyio.CancelScope] = set()
        self._clients: Counter[str] = Counter()

    @property
    def open(self) -> int:
        """How many streams are open."""
        return self._clients.total()

    async def stream(self, request: Request) -> Response:
        """Answer with the events of a run, from its first one or after ``Last-Event-ID`` on."""
        return _Stream(self, request.path_params["id"], _last_event(request))

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serve streams; soon after the end of the block none is left."""
        async with anyio.create_task_group() as group:
            self.leaving = False
            group.start_soon(self.tails.watch, name="reads events for those who listen")
            group.start_soon(self._watch, name="sees whether the program ends")
            try:
                yield
            finally:
                group.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await self._leave()

    async def _watch(self) -> None:
        while not self.backend.leaving:
            due = anyio.current_time() + _LOOK
            await anyio.sleep_until(due)
            self.late.note(due, anyio.current_time() - due)
        await self._leave()

    async def _leave(self) -> None:
        """End every stream: those that wait for events do it by themselves."""
        self.leaving = True
        self.tails.wake()
        if self._scopes:
            await anyio.sleep(_LAST_WORDS)
        for scope in self._scopes:
            scope.cancel()

    async def ask(self, question: Question[T]) -> T:
        """Ask the database for one stream: hundreds of them may begin at once, and wait here.

        Raises:
            StoreError: It does not answer, or is asked too much.
        """
        with anyio.move_on_after(self.limits.patience):
            async with self._turns:
                return await self.backend.pool.ask(question)
        raise StoreError("too many streams are read at once")

    @contextmanager
    def admitted(self, client: str) -> Iterator[anyio.CancelScope]:
        """Count a client's stream, and give the scope by which it is ended.

        Raises:
            Problem: There are too many.
        """
        if self.leaving:
            raise Problem(503, _CLOSED, kind="closed", headers=_LATER)
        if self.open >= self.limits.streams:
            detail = f"{self.open} streams are open, and more are not served: {_INSTEAD}"
            raise Problem(503, detail, kind="streams", headers=_LATER)
        if self._clients[client] >= self.limits.each and not _is_loopback(client):
            detail = (
                f"your address has {self._clients[client]} streams open: close one, or {_INSTEAD}"
            )
            raise Problem(429, detail, kind="streams", headers=_LATER)
        self._clients[client] += 1
        scope = anyio.CancelScope()
        self._scopes.add(scope)
        try:
            yield scope
        finally:
            self._scopes.discard(scope)
            self._clients -= Counter((client,))  # which forgets those that have none


_CLOSED = "this process serves no events just now, for it begins or ends: ask again"
_INSTEAD = "ask again later, or now and then for GET /runs/{id}"


class _Stream(Response):
    """The stream of one client, as an answer."""

    media_type = "text/event-stream"

    def __init__(self, events: Events, run: str, after: int | None) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._events = events
        self._limits = events.limits
        self._reader = Reader(events.ask, run, after)
        self._data = b""
        """What is sent next; nothing of it is kept while events are waited for."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request: until the run ends, the client goes, or the program is left."""
        address, _ = scope.get("client") or ("", 0)
        with self._events.admitted(address) as served:
            await self._look()
            if not self._data and self._reader.over():
                nothing = Response(status_code=204, headers=_HEADERS)
                await nothing(scope, receive, send)
                return
            async with anyio.create_task_group() as group:
                group.start_soon(_until_gone, receive, group.cancel_scope)
                ended = False
                with served, anyio.move_on_after(self._limits.age):
                    await self._take(send, self._start())
                    taken = scope["method"] == "HEAD" or await self._push(send)
                    ended = taken and await self._take(send, _END)
                if not ended:
                    with anyio.move_on_after(_LAST_WORDS):
                        await send(_END)
                group.cancel_scope.cancel()

    async def _look(self) -> None:
        try:
            self._data = await self._reader.from_store()
        except UsageError as error:
            raise Problem(404, str(error), kind="no-such-run") from error

    async def _push(self, send: Send) -> bool:
        """Send what there is until no more is to come; False when the client takes nothing."""
        reader, self._data = self._reader, RETRY + self._data
        with self._events.tails.listening(reader.run, reader.last) as tail:
            while True:
                if self._data and not await self._take(send, self._body()):
                    return False
                if self._events.leaving or tail.gone or reader.over(tail):
                    return True
                try:
                    self._data = await self._next(tail)
                except UsageError:  # the run has just been deleted
                    return True

    async def _next(self, tail: Tail) -> bytes:
        """Return the next frames, or a sign of life; nothing when it is to be looked again."""
        if self._reader.seq < tail.read:
            try:
                return await self._reader.from_tail(tail)
            except StoreError:  # the client is kept, and the database asked again
                await anyio.sleep(self._limits.pause)
                return PING
        with anyio.move_on_after(self._limits.ping):
            await tail.news.wait()
            return b""
        return PING

    async def _take(self, send: Send, message: Message) -> bool:
        """Send a message; False when the client does not take it."""
        with anyio.move_on_after(self._limits.taking):
            await send(message)
            return True
        return False

    def _start(self) -> Message:
        return {"type": "http.response.start", "status": 200, "headers": self.raw_headers}

    def _body(self) -> Message:
        data, self._data = self._data, b""
        return {"type": "http.response.body", "body": data, "more_body": True}


_END: Final[Message] = {"type": "http.response.body", "body": b"", "more_body": False}


async def _until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    """Cancel *scope* when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass  # a body, which a GET may have
    scope.cancel()


def _last_event(request: Request) -> int | None:
    """Return the number of the last event that a client has; None when it does not say.

    Raises:
        Problem: It is no number.
    """
    given = request.headers.get("last-event-id") or request.query_params.get("after")
    if not given:
        return None
    if given.isascii() and given.isdigit() and len(given) <= _DIGITS:
        return int(given)
    raise Problem(
        400,
        "Last-Event-ID (or the query's `after`) must be the number of an event: leave it out to"
        " get all events from the first one on",
        kind="last-event-id",
    )


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:  # a name, or a socket's path: never from beyond this machine
        return True
