"""A runtime, its HTTP API and its dashboard, for a program on ASGI."""

import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import sniffio
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from stagerun.engine import opening
from stagerun.engine.runtime import Runtime
from stagerun.errors import RuntimeClosedError, UsageError
from stagerun.model.alert import Alerts
from stagerun.model.pipeline import Pipeline
from stagerun.model.schedule import Schedule
from stagerun.store.documents import run_document
from stagerun.store.listing import run_page
from stagerun.store.opening import check_path
from stagerun.store.pool import ReadingPool
from stagerun.web.app import build
from stagerun.web.backend import Limits
from stagerun.web.guard import Guard
from stagerun.web.leaving import signals_heard
from stagerun.web.token import token_of

__all__ = ["LOOPBACK", "Lifespan", "Service"]

LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")
"""The names under which a machine speaks of itself."""

_NOT_OPEN: Final = (
    "the service is not open: give its lifespan to the program that it is mounted in, for example"
    " FastAPI(lifespan=service.lifespan())"
)

Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]
"""What Starlette and FastAPI take as ``lifespan``."""


class Service:
    """A runtime with its HTTP API and its dashboard, to be mounted in any ASGI program.

    ``FastAPI(lifespan=service.lifespan())`` opens the runtime; ``app.mount("/jobs", service.app)``
    serves it; ``await service.runtime.start(...)`` uses it. The service is an ASGI program by
    itself, too: ``uvicorn jobs:service``.

    Args:
        database: A file; it is created when there is none. Its folder must exist.
        pipelines: What may be started and resumed over HTTP, by name, and what this program takes
            over when its process has gone.
        schedules: What this program runs by itself, at the times of a clock on the wall. Their
            pipelines may be started and resumed by name as well.
        alerts: Who is told when runs end badly or stand still, see ``stagerun.alerts``; several
            have different names.
        token: What whoever changes something must show as ``Authorization: Bearer TOKEN``; so must
            whoever reads from beyond this machine. None: ``STAGERUN_TOKEN``, else the one in the
            file ``DATABASE.token``, which is made when there is none.
        hosts: Names under which the program may be asked, beside those of this machine; requests
            for others are refused. ``"*"``: any.
        origins: Web pages of other origins that may ask, ``https://example.org``; none by default.
        insecure: Whether no token is asked for, because the program that this is mounted in, or
            what stands before it, lets only those through who may do everything.
        reads_need_token: Whether reading on this machine needs the token, too: where other users
            of it are not to read, or where a proxy that says nothing stands before the program.
        limits: What one request may take.

    Raises:
        UsageError: Two pipelines have one name; or an argument is not of its kind.
        ValueError: The token is too short.
    """

    def __init__(
        self,
        database: str | Path = "stagerun.db",
        *,
        pipelines: Iterable[Pipeline] = (),
        schedules: Iterable[Schedule] = (),
        alerts: Alerts | Iterable[Alerts] | None = None,
        token: str | None = None,
        hosts: Sequence[str] = (),
        origins: Sequence[str] = (),
        insecure: bool = False,
        reads_need_token: bool = False,
        limits: Limits | None = None,
    ) -> None:
        for name, given in (("hosts", hosts), ("origins", origins)):
            if isinstance(given, str):
                raise UsageError(f"{name} takes a list of texts, got {given!r}")
        self.database = Path(database).expanduser().absolute()
        self.schedules = tuple(schedules)
        self.alerts = alerts
        self.pipelines = _by_name([*pipelines, *_pipelines_of(self.schedules)])
        """What may be started by name."""
        self.leaving = False
        """Whether the program was told to end: streams end by themselves."""
        self.limits = limits or Limits()
        self._given = token
        self._token: str | None = None
        self._insecure = insecure
        self._claimed = False
        self._runtime: Any = None
        self._pool: ReadingPool | None = None
        self._built = build(self, self.limits)
        guard = Guard(
            self._built.app,
            hosts=(*LOOPBACK, *hosts),
            origins=origins,
            token=self._asked,
            reads_need_token=reads_need_token,
        )
        self.app: ASGIApp = guard
        """The API and the dashboard, to be mounted."""

    @property
    def runtime(self) -> Runtime:
        """The runtime: ``stagerun.Runtime``, or under asyncio the one of ``stagerun.asyncio``.

        Raises:
            RuntimeClosedError: The service is not open.
        """
        if self._runtime is None:
            raise RuntimeClosedError(_NOT_OPEN)
        runtime: Runtime = self._runtime
        return runtime

    @property
    def pool(self) -> ReadingPool:
        """Answers whoever reads, without the runtime and without its writer.

        Raises:
            RuntimeClosedError: The service is not open.
        """
        if self._pool is None:
            raise RuntimeClosedError(_NOT_OPEN)
        return self._pool

    async def document(self, run: str) -> dict[str, Any]:
        """Return the document of a run of any process, as ``stagerun show --json`` gives it.

        It is read beside the runtime: it comes whatever a stage does.

        Raises:
            UsageError: There is no such run, or more than one that begins so.
        """
        return await self.pool.ask(run_document(run))

    async def runs(
        self,
        *,
        status: str | None = None,
        pipeline: str | None = None,
        labels: Mapping[str, str] | None = None,
        limit: int = 50,
    ) -> list[dict[str, Any]]:
        """Return documents of runs as a list shows them, the newest first; read as ``document``.

        Args:
            status: Only runs of this status.
            pipeline: Only runs of the pipeline of this name.
            labels: Only runs that have all these labels.
            limit: So many at most.

        Raises:
            UsageError: There is no such status.
        """
        page = run_page(status=status, pipeline=pipeline, labels=labels, limit=limit)
        return (await self.pool.ask(page))[0]

    @property
    def body_limit(self) -> int:
        """Bytes of a request's body."""
        return self.limits.body

    @property
    def token(self) -> str:
        """The token that is asked for.

        Raises:
            StoreError, SettingError: There is none that can be used; says why.
        """
        if self._token is None:
            self._token = token_of(check_path(self.database), self._given, os.environ)
        return self._token

    def lifespan(self, own: Lifespan | None = None) -> Lifespan:
        """Return a lifespan for Starlette or FastAPI that opens the service.

        *own*, the program's own lifespan, stands inside: it may use the runtime from its first
        line to its last. What it yields is handed on.
        """

        @asynccontextmanager
        async def lifespan(app: Any) -> AsyncIterator[Any]:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(self.opened())
                state = None if own is None else await stack.enter_async_context(own(app))
                yield state

        return lifespan

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Service"]:
        """Open the runtime, serve, and leave it in order; what ``lifespan()`` does.

        Raises:
            StoreError: The database cannot be opened, or was lost on the way.
            SettingError: An environment variable of stagerun's holds a bad value.
        """
        if self._claimed:
            raise UsageError("the service is open already: give its lifespan to one program only")
        self._claimed = True
        try:
            async with self._opened():
                yield self
        finally:
            self._claimed = False

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[None]:
        if not self._insecure:
            _ = self.token  # to be read before anything is started
        self.leaving = False
        served = {
            "pipelines": self.pipelines.values(),
            "schedules": self.schedules,
            "alerts": self.alerts,
        }
        async with _host()(self.database, **served) as runtime:
            self._runtime, self._pool = runtime, ReadingPool(self.database)
            try:
                with signals_heard(self.leave):
                    async with self._built.serving():
                        yield
            finally:
                self.leave()
                self._pool.close()
                self._runtime = self._pool = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Be an ASGI program."""
        if scope["type"] == "lifespan":
            await Starlette(lifespan=self.lifespan())(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def leave(self) -> None:
        """Hear that the program is about to end: streams end by themselves. Any thread."""
        self.leaving = True

    def _asked(self) -> str | None:
        return None if self._insecure else self.token


def _pipelines_of(schedules: Iterable[Schedule]) -> list[Pipeline]:
    for schedule in schedules:
        if not isinstance(schedule, Schedule):
            raise UsageError(f"schedules takes schedules, got {schedule!r}")
    return [schedule.pipeline for schedule in schedules]


def _by_name(pipelines: Iterable[Pipeline]) -> dict[str, Pipeline]:
    found: dict[str, Pipeline] = {}
    for pipeline in pipelines:
        if not isinstance(pipeline, Pipeline):
            raise UsageError(f"pipelines takes pipelines, got {pipeline!r}")
        if found.get(pipeline.name, pipeline) is not pipeline:
            raise UsageError(f"two pipelines are named {pipeline.name!r}: which one is meant?")
        found[pipeline.name] = pipeline
    return found


def _host() -> Callable[..., AbstractAsyncContextManager[Any]]:
    """Return what opens a runtime in the event loop that this is called in."""
    if sniffio.current_async_library() == "trio":
        return opening.open_runtime
    from stagerun.hosts.opening import open_runtime  # noqa: PLC0415 - asyncio's side of the house

    return open_runtime
