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
    Mapping,
    Sequence,
)
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import trio
from attrs import evolve

from stagerun.engine import handle, runtime
from stagerun.engine.admission import Changed
from stagerun.engine.asking import Dialogue, ask_to_cancel, ask_why
from stagerun.engine.health import Health
from stagerun.engine.statistics import RuntimeStatistics
from stagerun.engine.token import CancellationToken
from stagerun.hosts.thread import TrioThread
from stagerun.model.pipeline import Pipeline
from stagerun.model.status import Cause, Counts, Result
from stagerun.store.documents import run_document
from stagerun.store.requests import standing
from stagerun.store.retention import Prunable
from stagerun.store.talk import talking

__all__ = ["Run", "Runtime"]

T = TypeVar("T")

_PATIENCE: Final = 1.0
"""Seconds for trio's event loop to answer before it counts as blocked."""
_BY: Final = {"by": "the program that hosts it"}
_PAGE: Final = 500
"""Results that come over from trio's thread at once."""


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

    async def schedules(self) -> list[dict[str, Any]]:
        """Return a document of each schedule; see ``stagerun.Runtime.schedules``."""
        return await self._thread.call(self._inner.schedules)

    async def trigger_schedule(self, name: str) -> dict[str, Any]:
        """Have a schedule's run started now; see ``stagerun.Runtime.trigger_schedule``."""
        return await self._thread.call(self._inner.trigger_schedule, name)

    async def pause_schedule(self, name: str) -> dict[str, Any]:
        """Let no slot come until it is resumed; see ``stagerun.Runtime.pause_schedule``."""
        return await self._thread.call(self._inner.pause_schedule, name)

    async def resume_schedule(self, name: str) -> dict[str, Any]:
        """Let slots come again from now on; see ``stagerun.Runtime.resume_schedule``."""
        return await self._thread.call(self._inner.resume_schedule, name)

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
        call = partial(self._inner.why, run)
        return await _heard(self._thread, call, self._database, ask_why(run, _BY, _now))

    async def cancel(self, run: str, reason: str = "cancelled") -> dict[str, Any]:
        """Ask a run of any process to stop; see ``stagerun.Runtime.cancel``."""
        asked = ask_to_cancel(run, {**_BY, "reason": reason}, _now, wait=False)
        call = partial(self._inner.cancel, run, reason)
        return await _heard(self._thread, call, self._database, asked)

    def _run(self, inner: handle.Run) -> "Run":
        return Run(inner, self._thread, self._database)


class Run:
    """One generation of a run, from asyncio. Everything it tells is committed."""

    def __init__(self, inner: handle.Run, thread: TrioThread, database: Path) -> None:
        self._inner = inner
        self._thread = thread
        self._database = database

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
        # The cause is lost on this way: to stop while something blocks is worth more.
        await asyncio.to_thread(_cancel, self._database, self.id, self.generation, reason)

    async def why(self) -> dict[str, Any]:
        """Tell why the run stands where it does: what it waits for, and what will end the wait."""
        dialogue = ask_why(self.id, _BY, _now)
        return await _heard(self._thread, self._inner.why, self._database, dialogue)

    async def resume(self, *, failed: bool = False) -> "Run":
        """Go on with the run in a new generation, once this one has ended; see ``stagerun.Run``."""
        inner = await self._thread.call(partial(self._inner.resume, failed=failed))
        return Run(inner, self._thread, self._database)

    def results(self) -> AsyncIterator[Any]:
        """Iterate over the last stage's stored results so far, in item order."""
        return self._results(self._inner.results)

    async def document(self) -> dict[str, Any]:
        """Return the run's document, as ``stagerun show --json`` gives it.

        It is read beside the runtime, so that it comes while a stage blocks that, too.
        """
        return await asyncio.to_thread(_document, self._database, self.id)

    async def _results(self, read: Callable[[], AsyncIterator[Any]]) -> AsyncIterator[Any]:
        """Bring results over page by page; *read* gives an iterator that only trio may drive."""
        pages = _Pages(read())
        try:
            while page := await self._thread.call(pages.next):
                for value in page:
                    yield value
        finally:
            self._thread.send(pages.close)


async def _heard(
    thread: TrioThread,
    call: Callable[[], Awaitable[dict[str, Any]]],
    database: Path,
    dialogue: Dialogue[dict[str, Any]],
) -> dict[str, Any]:
    """Ask trio's event loop; while a stage blocks that, the store's thread answers."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            return await thread.call(call)
    return await asyncio.to_thread(_hold, database, dialogue)


def _cancel(database: Path, run: str, generation: int, reason: str) -> None:
    with talking(database) as talk:
        if talk.ask(standing(run)).generation == generation:
            talk.hold(ask_to_cancel(run, {**_BY, "reason": reason}, _now, wait=False))


def _document(database: Path, run: str) -> dict[str, Any]:
    with talking(database) as talk:
        return talk.ask(run_document(run))


def _hold(database: Path, dialogue: Dialogue[T]) -> T:
    with talking(database) as talk:
        return talk.hold(dialogue)


def _now() -> int:
    return time.time_ns() // 1_000


class _Pages:
    """An iterator that only trio may drive, page by page. Its methods run in trio's thread."""

    def __init__(self, values: AsyncIterator[Any]) -> None:
        self._values = values
        self._lock = trio.Lock()
        """A page may still be under way when its reader has gone."""

    async def next(self) -> list[Any]:
        """Return the next values; none at the end."""
        page: list[Any] = []
        async with self._lock:
            while len(page) < _PAGE:
                try:
                    page.append(await anext(self._values))
                except StopAsyncIteration:
                    break
        return page

    async def close(self) -> None:
        """Give up what was not read."""
        async with self._lock:
            if isinstance(self._values, AsyncGenerator):
                await self._values.aclose()
