"""What tests of streams share: a database written by hand, a backend, and an ASGI client."""

import json
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import anyio
import msgspec
from attrs import define, field
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stagerun.engine.health import Health
from stagerun.engine.statistics import RuntimeStatistics
from stagerun.store.opening import connect
from stagerun.store.pool import ReadingPool
from stagerun.web.events import Events, StreamLimits
from stagerun.web.problems import Problem

RUN = "r" * 32
NOTHING = msgspec.msgpack.encode(None)


class Database:
    """A database with runs whose events are written as a runtime would."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connection: sqlite3.Connection = connect(path)

    def close(self) -> None:
        self.connection.close()

    def run(self, number: int = 1, identifier: str = RUN, pipeline: str = "crawl") -> int:
        self.connection.execute(
            "INSERT INTO runs (run, id, pipeline, generation, created_at, params, source)"
            " VALUES (?, ?, ?, 1, 0, ?, 'none')",
            (number, identifier, pipeline, NOTHING),
        )
        self.connection.execute(
            "INSERT INTO generations (run, generation, status, created_at, started_at, updated_at)"
            " VALUES (?, 1, 'running', 0, 0, 0)",
            (number,),
        )
        return number

    def event(self, body: str = "hello", kind: str = "log", *, run: int = 1, **place: Any) -> int:
        self.connection.execute("UPDATE runs SET events = events + 1 WHERE run = ?", (run,))
        ((seq, generation),) = self.connection.execute(
            "SELECT events, generation FROM runs WHERE run = ?", (run,)
        )
        row = (run, seq, generation, seq * 1_000_000, kind, place.get("level"))
        self.connection.execute(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*row, place.get("stage"), place.get("item"), body),
        )
        return int(seq)

    def prune(self, *seqs: int, run: int = 1) -> None:
        for seq in seqs:
            done = self.connection.execute(
                "DELETE FROM events WHERE run = ? AND seq = ?", (run, seq)
            )
            self.connection.execute(
                "UPDATE runs SET events_pruned = events_pruned + ? WHERE run = ?",
                (done.rowcount, run),
            )

    def end(self, status: str = "succeeded", *, run: int = 1) -> int:
        self.connection.execute(
            "UPDATE generations SET status = ?, cause = 'finished', finished_at = 9, updated_at = 9"
            " WHERE run = ? AND finished_at IS NULL",
            (status, run),
        )
        return self.event(status, "run", run=run)

    def resume(self, *, run: int = 1) -> None:
        self.open_generation(run=run)
        self.event("running", "run", run=run)

    def open_generation(self, *, run: int = 1) -> None:
        self.connection.execute("UPDATE runs SET generation = generation + 1 WHERE run = ?", (run,))
        self.connection.execute(
            "INSERT INTO generations (run, generation, status, created_at, started_at, updated_at)"
            " SELECT run, generation, 'running', 9, 9, 9 FROM runs WHERE run = ?",
            (run,),
        )

    def delete(self, *, run: int = 1) -> None:
        for table in ("events", "generations", "runs"):
            self.connection.execute(f"DELETE FROM {table} WHERE run = ?", (run,))


@asynccontextmanager
async def database(path: Path) -> AsyncIterator[Database]:
    with closing(Database(path / "runs.db")) as made:
        yield made


class FakeRuntime:
    """A runtime that only tells how it does."""

    def __init__(self) -> None:
        self.figures = RuntimeStatistics(runs=0, in_flight=0, survivors=0)
        self.condition = Health("ok")

    def statistics(self) -> RuntimeStatistics:
        return self.figures

    def health(self) -> Health:
        return self.condition


@define(eq=False)
class FakeBackend:
    """As much of a service as streams and metrics need."""

    pool: Any
    runtime: Any = field(factory=FakeRuntime)
    pipelines: Mapping[str, Any] = field(factory=dict)
    leaving: bool = False
    body_limit: int = 2**20


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


@asynccontextmanager
async def served(path: Path, **limits: Any) -> AsyncIterator["Served"]:
    """Serve the events of a database."""
    pool = ReadingPool(path)
    backend = FakeBackend(pool)
    events = Events(backend, StreamLimits(**limits))
    app = Starlette(
        routes=[Route("/runs/{id}/events", events.stream)], exception_handlers={Problem: _refused}
    )
    try:
        async with events.serving():
            yield Served(app, events, backend)
    finally:
        pool.close()


@define(eq=False)
class Served:
    app: Any
    events: Events
    backend: FakeBackend

    @asynccontextmanager
    async def client(
        self, run: str = RUN, *, last: int | str | None = None, **options: Any
    ) -> AsyncIterator["Client"]:
        """Connect; at the end of the block the client goes away, if the stream has not ended."""
        client = Client(**options)
        async with anyio.create_task_group() as group:
            group.start_soon(client.connect, self.app, run, last)
            try:
                yield client
            finally:
                client.leave()
                with anyio.fail_after(5):
                    await client.over.wait()

    async def read(self, run: str = RUN, *, last: int | str | None = None) -> "Client":
        """Connect, and read the stream to its end."""
        with anyio.fail_after(20):
            async with self.client(run, last=last) as client:
                await client.over.wait()
        return client


@define(eq=False)
class Client:
    """A client on ASGI that takes what it is sent, or nothing once *takes* is False."""

    takes: bool = True
    address: str = "127.0.0.1"
    query: str = ""
    method: str = "GET"
    status: int = 0
    headers: dict[str, str] = field(factory=dict)
    raw: bytes = b""
    ended: bool = False
    """Whether the server has said that there is no more."""
    over: anyio.Event = field(factory=anyio.Event)
    offered: anyio.Event = field(factory=anyio.Event)
    """Set when something was sent that the client does not take."""
    _gone: anyio.Event = field(factory=anyio.Event)
    more: anyio.Event = field(factory=anyio.Event)

    async def connect(self, app: Any, run: str, last: int | str | None) -> None:
        headers = [] if last is None else [(b"last-event-id", str(last).encode("latin-1"))]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": f"/runs/{run}/events",
            "raw_path": f"/runs/{run}/events".encode(),
            "query_string": self.query.encode(),
            "root_path": "",
            "headers": headers,
            "client": (self.address, 1),
            "server": ("localhost", 80),
        }
        try:
            await app(scope, self._receive, self._send)
        finally:
            self.over.set()
            self._tell()

    def leave(self) -> None:
        self._gone.set()

    async def _receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await anyio.lowlevel.checkpoint()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        elif not self.takes:
            self.offered.set()
            await anyio.sleep_forever()
        else:
            self.raw += message.get("body", b"")
            self.ended = not message.get("more_body", False)
        self._tell()

    def _tell(self) -> None:
        more, self.more = self.more, anyio.Event()
        more.set()

    @property
    def frames(self) -> list[dict[str, Any]]:
        """What has come, parsed as a browser does."""
        return parse(self.raw)

    @property
    def ids(self) -> list[int]:
        return [int(frame["id"]) for frame in self.frames if frame["event"] != "reset"]

    async def until(self, seq: int) -> None:
        """Wait until the event *seq* has come."""
        with anyio.fail_after(10):
            while seq not in self.ids and not self.over.is_set():
                await self.more.wait()
        assert seq in self.ids

    async def pinged(self) -> None:
        with anyio.fail_after(10):
            while b": ping" not in self.raw:
                await self.more.wait()


def parse(raw: bytes) -> list[dict[str, Any]]:
    """Parse a stream of events as the standard says, with every sort of line end."""
    text = raw.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    frames = []
    for block in text.split("\n\n")[:-1]:
        fields: dict[str, Any] = {"event": "message", "data": []}
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "data":
                fields["data"].append(value)
            elif name in {"id", "event"}:
                fields[name] = value
        if fields["data"]:
            fields["data"] = json.loads("\n".join(fields["data"]))
            frames.append(fields)
    return frames
