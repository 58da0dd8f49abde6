"""Opening a runtime in an asyncio program, and leaving it within bounds."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import trio
from attrs import evolve

from stagerun import logs
from stagerun.engine import opening, runtime
from stagerun.engine.blame import blameless
from stagerun.engine.env import Env
from stagerun.hosts.facade import Runtime
from stagerun.hosts.thread import TrioThread
from stagerun.model.pipeline import Pipeline
from stagerun.store.driver import Store

if TYPE_CHECKING:
    from stagerun.model.alert import Alerts
    from stagerun.model.schedule import Schedule

__all__ = ["open_runtime"]

T = TypeVar("T")

_SURVIVORS: Final = 0.5
"""Seconds that what does not stop gets once everything is on disk."""
_LATER: Final = 1.0
"""Seconds beyond what leaving takes by itself: this loop has other things to do as well."""
_LOOK: Final = 0.02
"""Seconds between two looks whether the runtime has been left."""


@asynccontextmanager
async def open_runtime(
    database: str | Path = "stagerun.db",
    *,
    pipelines: Iterable[Pipeline] = (),
    schedules: "Iterable[Schedule]" = (),
    alerts: "Alerts | Iterable[Alerts] | None" = None,
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

    async def main() -> None:
        async with opening.open_runtime(
            database,
            pipelines=pipelines,
            schedules=schedules,
            alerts=alerts,
            env=env,
            store=store,
        ) as inner:
            thread.tell(_resolve, opened, inner)
            await trio.sleep_forever()

    with blameless(store.page):  # signals are heard by the main thread, and that is not trio's
        thread.start(main)
        try:
            await asyncio.wait((opened, thread.ended), return_when=asyncio.FIRST_COMPLETED)
            if not opened.done():
                thread.ended.result()
            with _cancelled_when(thread.ended):
                yield Runtime(opened.result(), thread, Path(database))
        finally:
            thread.leave()
            await _left(thread, opened)


def _resolve(future: "asyncio.Future[T]", value: T) -> None:
    if not future.done():
        future.set_result(value)


@contextmanager
def _cancelled_when(ended: "asyncio.Future[None]") -> Iterator[None]:
    """Cancel the block when *ended* is done before it: then that has failed, and is raised.

    Raises:
        StoreError: The runtime has lost its database; or whatever else has ended it.
    """
    task, over = asyncio.current_task(), False
    assert task is not None  # noqa: S101 - whoever enters this is one

    def end(_ended: "asyncio.Future[None]") -> None:
        if not over:
            task.cancel("the runtime has ended by itself")

    before = task.cancelling()
    ended.add_done_callback(end)
    try:
        yield
    except asyncio.CancelledError:
        if ended.done() and task.uncancel() <= before:
            ended.result()
        raise
    finally:
        over = True
        ended.remove_done_callback(end)


async def _left(thread: TrioThread, opened: "asyncio.Future[runtime.Runtime]") -> None:
    """Wait until the runtime has been left, or nothing but what does not stop holds it.

    A cancellation, of which there may be several, waits until then: it is bounded. An opening that
    was cancelled is not waited for long; nothing comes of it, whenever it ends.
    """
    cancelled: asyncio.CancelledError | None = None
    loop = asyncio.get_running_loop()
    inner = opened.result() if opened.done() and not opened.cancelled() else None
    until = loop.time() + (_LATER if inner is None else inner.leaves_within + _LATER)
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
    elif inner is not None:
        names = inner.statistics().survivor_names
        why = "; ".join(names) if names else "something blocks its event loop, or its database"
        logs.RunLog().error("the runtime does not stop and is left behind in its thread: %s", why)
    if cancelled is not None:
        raise cancelled
