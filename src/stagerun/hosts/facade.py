"""The runtime and its runs, for asyncio: one thin proxy in front of the ones that trio knows.

Every method has the signature of the one that it stands for; a test compares them. What is only
looked at is read here and now: it is committed, and safe to read from any thread.
"""

import asyncio
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import trio
from attrs import evolve

from stagerun import logs
from stagerun.engine import handle, opening, runtime
from stagerun.engine.admission import Changed
from stagerun.engine.asking import Dialogue, ask_to_cancel, ask_why
from stagerun.engine.blame import blameless
from stagerun.engine.env import Env
from stagerun.engine.health import Health
from stagerun.engine.runtime import RuntimeStatistics
from stagerun.engine.token import CancellationToken
from stagerun.errors import RuntimeClosedError
from stagerun.hosts.thread import TrioThread
from stagerun.model.pipeline import Pipeline
from stagerun.model.status import Cause, Counts, Result
from stagerun.store.driver import Store
from stagerun.store.retention import Prunable
from stagerun.store.talk import talking

__all__ = ["Run", "Runtime", "open_runtime"]

T = TypeVar("T")

_SURVIVORS: Final = 0.5
"""Seconds that what does not stop gets once everything is on disk."""
_LOOK: Final = 0.02
"""Seconds between two looks whether the runtime has been left."""
_LATER: Final = 1.0
"""Seconds beyond what leaving takes by itself: this loop has other things to do as well."""
_OPENING: Final = 20.0
"""Seconds that leaving waits for an opening which was cancelled; locks are waited for 15 s."""
_PATIENCE: Final = 1.0
"""Seconds for trio's event loop to answer before it counts as blocked."""
_BY: Final = {"by": "the program that hosts it"}
_PAGE: Final = 500
"""Results that come over from trio's thread at once."""


@asynccontextmanager
async def open_runtime(
    database: str | Path = "stagerun.db",
    *,
    pipelines: Iterable[Pipeline] = (),
    env: Env | None = None,
    store: Store | None = None,
) -> AsyncIterator["Runtime"]:
    """Open a database and run pipelines on it, in any asyncio program.

    The runtime lives in a thread of its own: a stage that blocks does not block this loop. Leaving
    the block is a graceful shutdown, within the longest grace of the runs under way. A stage that
    does not stop even then is named in the log and left behind, in a daemon thread.

    Args, and what is raised: see ``stagerun.open_runtime``.
    """
    env = evolve(env or Env(), host_loop=asyncio.get_running_loop())
    store = store or opening.default_store(database)
    thread = TrioThread("stagerun")
    opened: asyncio.Future[runtime.Runtime] = asyncio.get_running_loop().create_future()
    left = trio.Event()

    async def main() -> None:
        async with opening.open_runtime(
            database, pipelines=pipelines, env=env, store=store
        ) as inner:
            thread.tell(_resolve, opened, inner)
            await left.wait()

    with blameless(store.page):  # signals are heard by the main thread, and that is not trio's
        thread.start(main)
        try:
            await asyncio.wait((opened, thread.ended), return_when=asyncio.FIRST_COMPLETED)
            if not opened.done():
                thread.ended.result()
            yield Runtime(opened.result(), thread, Path(database))
        finally:
            thread.soon(left.set)
            await _ended(thread, opened)


def _resolve(future: "asyncio.Future[T]", value: T) -> None:
    if not future.done():
        future.set_result(value)


async def _ended(thread: TrioThread, opened: "asyncio.Future[runtime.Runtime]") -> None:
    """Wait until the runtime has been left, or nothing but what does not stop holds it.

    A cancellation, of which there may be several, waits until then: it is bounded.
    """
    cancelled: asyncio.CancelledError | None = None
    loop = asyncio.get_running_loop()
    inner = opened.result() if opened.done() and not opened.cancelled() else None
    until = loop.time() + (_OPENING if inner is None else inner.leaves_within + _LATER)
    closed = False
    while not thread.ended.done() and loop.time() < until:
        try:
            await asyncio.wait((thread.ended,), timeout=_LOOK)
        except asyncio.CancelledError as error:
            cancelled = error
        if not closed and inner is not None and inner.closed:
            closed, until = True, loop.time() + _SURVIVORS
    if thread.ended.done():
        thread.ended.result()  # raises what has ended it
    else:
        left = "" if inner is None else "; ".join(inner.statistics().survivor_names)
        why = left or "its event loop is blocked"
        logs.RunLog().error("the runtime does not stop and is left behind in its thread: %s", why)
    if cancelled is not None:
        raise cancelled


class Runtime:
    """Starts runs and knows those under way, from asyncio. Made by ``open_runtime``."""

    def __init__(self, inner: runtime.Runtime, thread: TrioThread, database: Path) -> None:
        self._inner = inner
        self._thread = thread
        self._database = database

    async def start(
        self,
        pipeline: Pipeline,
        items: Any = None,
        *,
        params: Any = None,
        labels: Mapping[str, str] | None = None,
        key: str | None = None,
        token: CancellationToken | None = None,
        target: str | None = None,
        concurrency_key: str | None = None,
        concurrency: int = 1,
    ) -> "Run":
        """Start a run; when this returns, the run is on disk, and so are items given as a list.

        What gives items (an iterator, a function) is read in trio's thread. When this is cancelled
        the run may or may not have been started: give a ``key`` where that matters.
        See ``stagerun.Runtime.start``.
        """
        start = partial(
            self._inner.start,
            pipeline,
            items,
            params=params,
            labels=labels,
            key=key,
            token=token,
            target=target,
            concurrency_key=concurrency_key,
            concurrency=concurrency,
        )
        return self._run(await self._thread.call(start))

    async def find(self, run: str) -> "Run":
        """Return the handle of a run; see ``stagerun.Runtime.find``."""
        return self._run(await self._thread.call(self._inner.find, run))

    async def resume(
        self,
        run: str,
        pipeline: Pipeline | None = None,
        *,
        failed: bool = False,
        changed: Changed = "refuse",
        items: Any = None,
        token: CancellationToken | None = None,
    ) -> "Run":
        """Go on with a run that has ended; see ``stagerun.Runtime.resume``."""
        resume = partial(
            self._inner.resume,
            run,
            pipeline,
            failed=failed,
            changed=changed,
            items=items,
            token=token,
        )
        return self._run(await self._thread.call(resume))

    async def prune(
        self, *, runs: int | None = None, days: float | None = None
    ) -> Sequence[Prunable]:
        """Delete ended runs now; see ``stagerun.Runtime.prune``."""
        return await self._thread.call(partial(self._inner.prune, runs=runs, days=days))

    def blame_nobody(self) -> None:
        """Hear that somebody ends this program; see ``stagerun.Runtime.blame_nobody``."""
        self._inner.blame_nobody()

    def health(self) -> Health:
        """Return whether the database takes commits; see ``stagerun.Runtime.health``."""
        return self._inner.health()

    def statistics(self) -> RuntimeStatistics:
        """Return how much is under way now."""
        return self._inner.statistics()

    @property
    def leaves_within(self) -> float:
        """Seconds that leaving may take at most if stages do not block trio's event loop."""
        return self._inner.leaves_within

    def tree(self) -> str:
        """Draw the supervision tree in trio's thread as it stands now, a task a line."""
        return self._inner.tree()

    async def why(self, run: str) -> dict[str, Any]:
        """Tell why a run stands where it does; see ``stagerun.Runtime.why``."""
        return await self._heard(partial(self._inner.why, run), ask_why(run, _BY, _now))

    async def cancel(self, run: str, reason: str = "cancelled") -> dict[str, Any]:
        """Ask a run of any process to stop; see ``stagerun.Runtime.cancel``."""
        asked = ask_to_cancel(run, {**_BY, "reason": reason}, _now, wait=False)
        return await self._heard(partial(self._inner.cancel, run, reason), asked)

    async def _heard(
        self, call: Callable[[], Awaitable[dict[str, Any]]], dialogue: Dialogue[dict[str, Any]]
    ) -> dict[str, Any]:
        """Ask trio's event loop; while a stage blocks that, the store's thread answers."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                return await self._thread.call(call)
        return await asyncio.to_thread(_hold, self._database, dialogue)

    def _run(self, inner: handle.Run) -> "Run":
        return Run(inner, self._thread, self)


class Run:
    """One generation of a run, from asyncio. Everything it tells is committed."""

    def __init__(self, inner: handle.Run, thread: TrioThread, host: Runtime) -> None:
        self._inner = inner
        self._thread = thread
        self._host = host

    @property
    def id(self) -> str:
        """The run's identifier: 128 bits, in hexadecimal."""
        return self._inner.id

    @property
    def status(self) -> str:
        """The committed status, for example ``running``."""
        return self._inner.status

    @property
    def generation(self) -> int:
        """Which generation of the run this is, from 1. A resume opens the next one."""
        return self._inner.generation

    @property
    def percent(self) -> float | None:
        """Percent done, from 0 to 100; None while the source's length is unknown."""
        return self._inner.percent

    @property
    def counts(self) -> tuple[Counts, ...]:
        """The committed sums of every stage."""
        return self._inner.counts

    @property
    def source_length(self) -> int | None:
        """How many items the source has; None while that is unknown."""
        return self._inner.source_length

    async def wait(self) -> Result:
        """Wait until the generation has ended and return how. Cancelling the wait changes nothing.

        See ``stagerun.Run.wait``.
        """
        result = await self._thread.call(self._inner.wait)
        return evolve(result, read=lambda: self._results(result.results))

    async def cancel(self, reason: str = "cancelled", *, cause: Cause = Cause.REQUESTED) -> None:
        """Ask the run to stop, and return when the request is on disk; see ``stagerun.Run``."""
        stop = partial(self._inner.cancel, reason, cause=cause)
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await self._thread.call(stop)
                return
        await self._host.cancel(self.id, reason)

    async def why(self) -> dict[str, Any]:
        """Tell why the run stands where it does: what it waits for, and what will end the wait."""
        return await self._host.why(self.id)

    async def resume(self, *, failed: bool = False) -> "Run":
        """Go on with the run in a new generation, once this one has ended; see ``stagerun.Run``."""
        inner = await self._thread.call(partial(self._inner.resume, failed=failed))
        return Run(inner, self._thread, self._host)

    def results(self) -> AsyncIterator[Any]:
        """Iterate over the last stage's stored results so far, in item order."""
        return self._results(self._inner.results)

    async def document(self) -> dict[str, Any]:
        """Return the run's document, as ``stagerun show --json`` gives it."""
        return await self._thread.call(self._inner.document)

    async def _results(self, read: Callable[[], AsyncIterator[Any]]) -> AsyncIterator[Any]:
        """Bring results over page by page; *read* gives an iterator that only trio may drive."""
        values = read()
        try:
            while page := await self._thread.call(_page, values):
                for value in page:
                    yield value
        finally:
            with suppress(RuntimeClosedError):  # then trio has closed it
                await self._thread.call(_close, values)


def _hold(database: Path, dialogue: Dialogue[T]) -> T:
    with talking(database) as talk:
        return talk.hold(dialogue)


def _now() -> int:
    return time.time_ns() // 1_000


async def _close(values: AsyncIterator[Any]) -> None:
    if isinstance(values, AsyncGenerator):
        await values.aclose()


async def _page(values: AsyncIterator[Any]) -> list[Any]:
    page: list[Any] = []
    while len(page) < _PAGE:
        try:
            page.append(await anext(values))
        except StopAsyncIteration:
            break
    return page
