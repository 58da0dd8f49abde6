"""The default driver: aiosqlite on a private asyncio loop in a daemon thread.

The persistence actor is a task on that loop. It drains what the engine has posted by itself, so
that a stage which blocks the program's event loop does not keep outcomes off the disk.
"""

import asyncio
import logging
import math
import sqlite3
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trio

from stagerun.errors import StoreError
from stagerun.store.bridge import AioThread
from stagerun.store.connection import Connection
from stagerun.store.demand import Demand
from stagerun.store.driver import Composer, Question
from stagerun.store.opening import check_path, explain, read_only
from stagerun.store.owner import Identity, Liveness, OwnerFile, folder_of, probe
from stagerun.store.page import Page, suspects
from stagerun.store.retention import remove_stale_files
from stagerun.store.writer import Writer

__all__ = ["AioStore"]

T = TypeVar("T")

_LINGER = 0.004
"""Seconds after a commit in which more may come for the next one: it costs as much as 200 rows."""
_PULSE = 0.05
"""Seconds between two signs of life of this thread in the live page."""


class AioStore:
    """The store of production: a writing and two reading connections, each in its own thread."""

    def __init__(self, path: str | Path) -> None:
        self.path = check_path(path)
        self.page = Page()
        self._thread = AioThread("stagerun-store")
        self._reader: Connection | None = None
        self._poller: Connection | None = None
        """Reads what is asked again and again: it must not wait behind a long question."""
        self._wake = asyncio.Event()
        self.asking = 0
        self.demand = Demand()
        self.awake = False  # Invariant: True from a wake() until the actor looks again.
        self._hurry = asyncio.Event()
        self._hurried = False  # Invariant: True from a hurry() until the actor composes again.
        self._stopping = False
        self._given_up = False
        self._owner: OwnerFile | None = None
        self._polls: set[asyncio.Task[None]] = set()

    async def run(
        self, composer: Composer, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """See ``Store.run``."""
        host = trio.lowlevel.current_trio_token()

        def tell(hear: Callable[..., None], *args: Any) -> None:
            with suppress(trio.RunFinishedError):  # it is on disk; nobody is left to be told
                host.run_sync_soon(hear, *args)

        def started() -> None:
            tell(task_status.started)

        try:
            async with self._thread as thread:
                await thread.call(
                    self._serve, composer, tell, started, on_cancel=lambda _task: self.stop()
                )
        finally:
            if self._owner is not None:
                self._owner.let_go()  # the file stays, unless release() removed it: a dead owner's

    async def _serve(
        self, composer: Composer, tell: Callable[..., None], started: Callable[[], None]
    ) -> None:
        try:
            # Opened in the loop's own thread, where nothing else waits yet: when aiosqlite fails to
            # open, its thread outlives the loop and says so on stderr.
            writer = Writer(
                self.path,
                composer,
                tell,
                self._wait,
                self._linger,
                demand=self.demand,
                given_up=lambda: self._given_up,
                owner=lambda: None if self._owner is None else self._owner.path.name,
            )
            async with (
                writer.opened(),
                Connection(read_only(self.path)).opened() as reader,
                Connection(read_only(self.path)).opened() as poller,
            ):
                self._reader, self._poller = reader, poller
                self._wake.set()  # something may have been posted before there was a loop
                started()
                self.watch(self.page.pulse, _PULSE)
                try:
                    await writer.serve()
                finally:
                    self._reader = self._poller = None
                    for poll in self._polls:
                        poll.cancel()
                    for ended in await asyncio.gather(*self._polls, return_exceptions=True):
                        if isinstance(ended, Exception):
                            raise ended
        except sqlite3.Error as error:
            raise StoreError(explain(error, self.path)) from error

    async def _wait(self) -> bool:
        """Wait until something is posted; False once there is no more to come."""
        if not self._wake.is_set():
            self.demand.end()
        await self._wake.wait()
        self.demand.begin()
        self._wake.clear()
        self.awake = False
        return not self._stopping

    async def _linger(self) -> None:
        """Let more come before the next commit, but only while nobody waits for one.

        Nor when the program leaves: a thread that was left behind may go on logging for ever, and
        would find each time that it has let a little more come.
        """
        if self._stopping:
            return
        if not self._hurry.is_set():
            self.demand.begin_in(_LINGER)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER):
                await self._hurry.wait()
        self.demand.begin()
        self._hurry.clear()
        self._hurried = False  # before the actor takes what it was said for

    def claim(self, identifier: str) -> Identity | None:
        """See ``Store.claim``."""
        if self._owner is not None:
            self._owner.close()
        self._owner = OwnerFile(self.path, identifier, self.page)
        return self._owner.identity

    def heal(self) -> Identity | None:
        """See ``Store.heal``."""
        return None if self._owner is None else self._owner.heal()

    def release(self) -> None:
        """See ``Store.release``."""
        if self._owner is not None:
            self._owner.close()

    def in_hand(self, identifier: str) -> Sequence[tuple[int, int, int, int]]:
        """See ``Store.in_hand``."""
        return suspects(folder_of(self.path) / identifier)

    def look(self, identifier: str, identity: Identity) -> Liveness:
        """See ``Store.look``."""
        return probe(folder_of(self.path) / identifier, identity)

    def poll(self, question: Question[T], hear: Callable[[T], None], every: float) -> None:
        """See ``Store.poll``."""
        self._thread.soon(self._begin, partial(self._poll, question, hear, every))

    async def _poll(self, question: Question[T], hear: Callable[[T], None], every: float) -> None:
        await asyncio.sleep(every)
        while (reader := self._poller) is not None:
            with suppress(sqlite3.Error):  # the writer tells of it, and this is asked again
                hear(await reader.read(question, object()))
            await asyncio.sleep(every)

    def tidy(self, open_owners: Collection[str]) -> None:
        """See ``Store.tidy``."""
        remove_stale_files(folder_of(self.path), open_owners)

    def watch(self, look: Callable[[], None], every: float) -> None:
        """See ``Store.watch``."""
        self._thread.soon(self._begin, partial(_call_each, look, every))

    def _begin(self, poll: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self._reader is not None:  # else it is being left already
            self._polls.add(asyncio.create_task(poll()))

    def wake(self) -> None:
        """See ``Store.wake``."""
        if not self.awake:
            self.awake = True
            if self.demand.due == math.inf:  # else it is busy, and has said with what
                self.demand.begin()
            self._thread.soon(self._wake.set)

    def hurry(self) -> None:
        """See ``Store.hurry``."""
        self.wake()
        if not self._hurried:
            self._hurried = True
            self.demand.begin()
            self._thread.soon(self._hurry.set)

    async def ask(self, question: Question[T]) -> T:
        """See ``Store.ask``. A cancelled caller interrupts the query."""
        reader = self._reader
        if reader is None:
            raise StoreError(f"database {self.path} is not open")

        ticket = object()

        def interrupt(task: "asyncio.Task[T]") -> None:
            reader.interrupt_if(ticket)
            task.cancel()

        self.asking += 1
        try:
            return await self._thread.call(reader.read, question, ticket, on_cancel=interrupt)
        except sqlite3.Error as error:
            raise StoreError(explain(error, self.path)) from error
        finally:
            self.asking -= 1

    def give_up(self) -> None:
        """See ``Store.give_up``."""
        self._given_up = True

    def stop(self) -> None:
        """See ``Store.stop``."""
        self._stopping = True
        self._thread.soon(self._hurry.set)
        self._thread.soon(self._wake.set)


async def _call_each(look: Callable[[], None], every: float) -> None:
    while True:
        try:
            look()
        except Exception:  # a defect; the others who look must not suffer for it
            logging.getLogger("stagerun").exception("a look of the store's thread failed")
        await asyncio.sleep(every)
