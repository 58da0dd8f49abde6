"""What tests of the API share: an app around a real runtime or a false one, and ASGI calls."""

import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from attrs import define, field, frozen

from stagerun import Pipeline, Schedule, open_runtime, stage
from stagerun.engine.health import Health
from stagerun.engine.intake import order_of
from stagerun.engine.statistics import RuntimeStatistics
from stagerun.errors import UsageError
from stagerun.store import codec
from stagerun.store.opening import connect
from stagerun.store.pool import ReadingPool
from stagerun.web.app import build
from stagerun.web.backend import Limits
from stagerun.web.guard import Guard

TOKEN = "the-token-of-these-tests"
HERE = ("127.0.0.1", 50_000)
ELSEWHERE = ("203.0.113.9", 50_000)
JSON = {"content-type": "application/json"}


@stage(workers=4)
async def double(value: Any) -> Any:
    if value == "bad":
        raise ValueError("<img src=x onerror=alert(1)>")
    return value


doubling = Pipeline("doubling", [double])
counting = Pipeline("counting", [double], source=range(3))
often = Schedule("often", counting, every=3600)


@frozen
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def ask(
    app: Any,
    path: str = "/",
    method: str = "GET",
    *,
    body: bytes | Iterable[bytes] = b"",
    headers: Mapping[str, str] | Iterable[tuple[bytes, bytes]] = (),
    query: str = "",
    host: str | None = "localhost",
    client: tuple[str, int] | None = HERE,
    token: str | None = None,
    root_path: str = "",
    receive: Callable[[], Any] | None = None,
    http_version: str = "1.1",
) -> Answer:
    """Call an ASGI program once; nothing between checks or mends what is sent."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    raw = [(_bytes(name).lower(), _bytes(value)) for name, value in pairs]
    if host is not None:
        raw.append((b"host", host.encode()))
    if token is not None:
        raw.append((b"authorization", f"Bearer {token}".encode()))
    parts = [body] if isinstance(body, bytes) else list(body)
    if isinstance(body, bytes) and body and not any(name == b"content-length" for name, _ in raw):
        raw.append((b"content-length", str(len(body)).encode()))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": http_version,
        "method": method,
        "scheme": "http",
        "path": root_path + path,
        "raw_path": path.encode("utf-8", "replace"),
        "root_path": root_path,
        "query_string": query.encode("latin-1", "replace"),
        "headers": raw,
        "client": client,
        "server": ("127.0.0.1", 80),
    }
    got: list[dict[str, Any]] = []

    async def give() -> dict[str, Any]:
        if parts:
            part = parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(parts)}
        await anyio.sleep_forever()
        raise AssertionError

    async def take(message: dict[str, Any]) -> None:
        got.append(message)

    await app(scope, receive or give, take)
    starts = [message for message in got if message["type"] == "http.response.start"]
    assert len(starts) == 1, got
    return Answer(
        starts[0]["status"],
        {name.decode(): value.decode("latin-1") for name, value in starts[0]["headers"]},
        b"".join(message.get("body", b"") for message in got[1:]),
    )


def _bytes(value: str | bytes) -> bytes:
    return value.encode("latin-1") if isinstance(value, str) else value


@define
class Backend:
    """A backend of a test."""

    runtime: Any
    pool: ReadingPool
    pipelines: Mapping[str, Pipeline]
    leaving: bool = False
    body_limit: int = 2**20


@define
class Api:
    """A guarded app, and what it is made of."""

    app: Any
    backend: Backend
    built: Any
    defaults: dict[str, Any] = field(factory=dict)

    async def get(self, path: str, query: str = "", **options: Any) -> Answer:
        return await ask(self.app, path, query=query, **(self.defaults | options))

    async def post(self, path: str, document: Any = None, **options: Any) -> Answer:
        body = b"" if document is None else json.dumps(document).encode()
        given = {"body": body, "headers": JSON, "token": TOKEN}
        return await ask(self.app, path, "POST", **(self.defaults | given | options))

    async def ended(self, run: str) -> dict[str, Any]:
        """Wait for a run's end and return its document."""
        with anyio.fail_after(20):
            while True:
                document: dict[str, Any] = (await self.get(f"/runs/{run}")).json
                if document["finished_at"] is not None:
                    return document
                await anyio.sleep(0.01)
        raise AssertionError


def api_of(backend: Backend, limits: Limits | None = None, **guarded: Any) -> Api:
    """Build an app around a backend."""
    built = build(backend, limits)
    return Api(Guard(built.app, **({"token": lambda: TOKEN} | guarded)), backend, built)


@asynccontextmanager
async def serving(
    tmp_path: Path,
    *,
    pipelines: Iterable[Pipeline] = (doubling, counting),
    schedules: Iterable[Schedule] = (),
    open_: Callable[..., AbstractAsyncContextManager[Any]] = open_runtime,
    limits: Limits | None = None,
    **guarded: Any,
) -> AsyncIterator[Api]:
    """Serve a real runtime on a real file."""
    path, known = tmp_path / "runs.db", {each.name: each for each in pipelines}
    async with open_(path, pipelines=known.values(), schedules=schedules) as runtime:
        pool = ReadingPool(path)
        try:
            api = api_of(Backend(runtime, pool, known), limits, **guarded)
            async with api.built.serving():
                yield api
        finally:
            pool.close()


class FalseRuntime:
    """Takes starts as far as a real one does before anything is on disk; then ends with *then*."""

    def __init__(self, then: Callable[[], Any]) -> None:
        self.then = then
        self.started = 0

    async def start(self, pipeline: Pipeline, items: Any = None, **given: Any) -> Any:
        key = given.pop("key")
        order = order_of(
            pipeline, items, given["params"], given["labels"] or {}, key=key, target=None
        )
        for value in items or ():
            codec.encode(value)
        assert order.pipeline is pipeline
        self.started += 1
        return self.then()

    async def find(self, run: str) -> Any:
        raise UsageError(f"there is no run {run!r}")

    async def resume(self, *_: Any, **__: Any) -> Any:
        return self.then()

    def statistics(self) -> RuntimeStatistics:
        return RuntimeStatistics(0, 0, 0)

    def health(self) -> Health:
        return Health("ok")


def empty_database(folder: Path) -> Path:
    """Make a database without runs."""
    path = folder / "runs.db"
    connect(path).close()
    return path
